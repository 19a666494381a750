"""MovieLens-1M as a prepared pickle: plain containers, original ids, fixed negatives."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.data.sources.ml1m import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError

DATASET = {
    "train": {0: [2, 0], 1: [1]},
    "val": {0: [1], 1: [3]},
    "test": {0: [3], 1: [2]},
    "umap": {101: 0, 102: 1},
    "smap": {11: 0, 12: 1, 13: 2, 14: 3},
}
MOVIES = "11::Am\u00e9lie (2001)::Comedy|Romance\n12::Heat (1995)::Action\n99::Never rated (1999)::Drama\n"


def folder_of(path: Path, dataset: object = DATASET, negatives: object = None, movies: str | None = MOVIES) -> Path:
    (path / "dataset.pkl").write_bytes(pickle.dumps(dataset, 4))
    if movies is not None:
        (path / "movies.dat.gz").write_bytes(gzip.compress(movies.encode("latin-1")))
    if negatives is not None:
        (path / "random-sample_size100-seed98765.pkl").write_bytes(pickle.dumps(negatives, 4))
    return path


def test_events_carry_movielens_own_ids_and_the_given_roles(tmp_path: Path):
    log = read([folder_of(tmp_path)], SourceOptions())
    events = log.events.collect()
    assert events.filter(events["user"] == "101").select("item", "role").rows() == [
        ("13", 0),
        ("11", 0),
        ("12", 1),
        ("14", 2),
    ]
    assert events["domain"].unique().to_list() == ["movies"]
    assert (log.has_time, log.ordered, log.default_split) == (False, True, "given")


def test_titles_are_latin_1_and_genres_are_attributes(tmp_path: Path):
    items = read([folder_of(tmp_path)], SourceOptions()).items["movies"]
    assert items.rows() == [
        ("11", "Am\u00e9lie (2001)", [], ["Comedy", "Romance"]),
        ("12", "Heat (1995)", [], ["Action"]),
    ]


def test_metadata_and_negatives_are_optional(tmp_path: Path):
    log = read([folder_of(tmp_path, movies=None)], SourceOptions())
    assert (log.items, log.candidates) == ({}, {})


def test_negatives_keep_their_user_and_the_number_that_is_no_item_is_counted(tmp_path: Path):
    log = read([folder_of(tmp_path, negatives={1: [0, 4], 0: [1, 2]})], SourceOptions())
    assert log.candidates["fixed"].rows() == [("102", "movies", ["11"]), ("101", "movies", ["12", "13"])]
    assert log.dropped == {"fixed negatives that are no item": 1}


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"train": {0: [2, 4], 1: [1]}}, "train"),
        ({"train": {0: [2, -1], 1: [1]}}, "train"),
        ({"train": {0: [2, 1.5], 1: [1]}}, "train"),
        ({"train": {0: [2, "1"], 1: [1]}}, "train"),
        ({"train": {0: (2, 1), 1: [1]}}, "train"),
        ({"train": {}}, "train"),
        ({"train": {7: [1]}}, "train"),
        ({"val": {0: [1, 2], 1: [3]}}, "val"),
        ({"test": {0: [], 1: [3]}}, "test"),
        ({"test": [[1], [2]]}, "test"),
        ({"umap": {101: 0, 102: 2}}, "umap"),
        ({"smap": {}}, "smap"),
    ],
)
def test_a_part_that_is_malformed_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], column: str):
    with pytest.raises(InputError) as caught:
        read([folder_of(tmp_path, DATASET | changes)], SourceOptions())
    assert caught.value.column == column


@pytest.mark.parametrize("dataset", [[1], {"train": {}}, None])
def test_another_object_is_refused(tmp_path: Path, dataset: object):
    with pytest.raises(InputError, match="not the prepared MovieLens"):
        read([folder_of(tmp_path, dataset)], SourceOptions())


@pytest.mark.parametrize("negatives", [{0: [5]}, {0: [-1]}, {2: [1]}, [[1]]])
def test_negatives_that_do_not_fit_are_refused(tmp_path: Path, negatives: object):
    with pytest.raises(InputError):
        read([folder_of(tmp_path, negatives=negatives)], SourceOptions())


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize("value", [Evil(), np.float64(1), np.arange(3)])
def test_anything_but_plain_containers_is_refused(tmp_path: Path, value: object):
    with pytest.raises(InputError, match="may not load"):
        read([folder_of(tmp_path, DATASET | {"train": {0: [value]}})], SourceOptions())


def test_missing_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="a file is missing"):
        read([tmp_path], SourceOptions())
    folder_of(tmp_path, movies="11::Heat\n")
    with pytest.raises(InputError, match="wrong number of fields") as caught:
        read([tmp_path], SourceOptions())
    assert caught.value.row == 1
    folder_of(tmp_path)
    path = tmp_path / "dataset.pkl"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="truncated"):
        read([tmp_path], SourceOptions())


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("ml1m", [shared_data / "ml1m_loo"], tmp_path / "out")
    counts = dataset.manifest.counts
    assert (counts.users, counts.sequences, counts.items, counts.events) == (6040, 6040, 3706, 1_000_209)
    lengths = np.diff(dataset.sequence_offsets)
    assert (lengths.min(), np.median(lengths), lengths.max(), round(float(lengths.mean()), 1)) == (20, 96, 2314, 165.6)
    ends = dataset.sequence_offsets[1:]
    assert set(dataset.role[ends - 1].tolist()) == {2}
    assert set(dataset.role[ends - 2].tolist()) == {1}
    assert (counts.roles["test"], counts.roles["validation"]) == (6040, 6040)
    items = dataset.items("movies")
    assert items["title"].null_count() == 0
    assert items["attributes"].list.len().min() == 1


def test_the_published_negatives_avoid_the_users_own_items(shared_data: Path):
    log = read([shared_data / "ml1m_loo"], SourceOptions())
    frame = log.candidates["fixed"]
    assert frame.height == 6040
    assert int(frame["negatives"].list.len().sum()) + log.dropped["fixed negatives that are no item"] == 604_000
    own = log.events.collect().group_by("user").agg("item")
    both = frame.join(own, left_on="sequence", right_on="user")
    assert both["negatives"].list.set_intersection(both["item"]).list.len().sum() == 0
