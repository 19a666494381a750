"""FedDCSR's domains: rows are sequences of their own, with roles, and with fixed candidates."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.data.sources.fkcb import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError

TRAIN, VALID, TEST = "5\t0\t1\t2\n5\t3\t4\t0\n", "6\t1\t2\t3\n", "5\t2\t3\n7\t4\t1\t0\n"
NEGATIVES = [[[5] * 15 + [2], 3, [0, 1, 1]], [[5] * 14 + [4, 1], 0, [2, 3, 4]]]


def domain_in(folder: Path, name: str, *, candidates: Any = None, **files: str) -> Path:
    sub = folder / name
    sub.mkdir(parents=True, exist_ok=True)
    contents = {"train_data": TRAIN, "valid_data": VALID, "test_data": TEST, "num_items": "5\n"} | files
    for stem, text in contents.items():
        (sub / f"{stem}.txt").write_text(text)
    if candidates is not None:
        (sub / "prep_data").mkdir(exist_ok=True)
        (sub / "prep_data" / "DisenVGSAN_test_data.pkl").write_bytes(pickle.dumps(candidates))
    return folder


def test_each_row_is_a_sequence_and_only_the_last_item_of_a_held_out_row_is_a_target(tmp_path: Path):
    log = read([domain_in(tmp_path, "Food")], SourceOptions())
    rows = log.events.collect().select("sequence", "user", "item", "role").rows()
    assert rows[:6] == [("Food/train/0", "5", item, 0) for item in "012"] + [
        ("Food/train/1", "5", item, 0) for item in "340"
    ]
    assert rows[6:9] == [("Food/valid/0", "6", "1", 3), ("Food/valid/0", "6", "2", 3), ("Food/valid/0", "6", "3", 1)]
    assert [row[3] for row in rows[9:]] == [3, 2, 3, 3, 2]
    assert (log.has_time, log.ordered, log.items_across, log.default_split) == (False, True, "separate", "given")


def test_all_items_of_a_domain_are_its_catalogue(tmp_path: Path):
    log = read([domain_in(tmp_path, "Food", num_items="9")], SourceOptions())
    assert log.keep_items
    assert log.items["Food"]["item"].to_list() == [str(item) for item in range(9)]


def test_users_are_shared_and_items_are_not(tmp_path: Path):
    domain_in(domain_in(tmp_path / "in", "Food"), "Beauty")
    dataset = prepare("fkcb", [tmp_path / "in"], tmp_path / "out")
    counts = dataset.manifest.counts
    assert (counts.users, counts.sequences, counts.items, counts.events) == (3, 10, 10, 28)
    assert not set(dataset.domain_items[0]) & set(dataset.domain_items[1])


def test_fixed_candidates_belong_to_their_row(tmp_path: Path):
    frame = read([domain_in(tmp_path, "Food", candidates=NEGATIVES)], SourceOptions()).candidates["fixed"]
    assert frame.rows() == [
        ("Food/test/0", "Food", ["0", "1", "1"]),
        ("Food/test/1", "Food", ["2", "3", "4"]),
    ]


@pytest.mark.parametrize(
    ("candidates", "problem", "row"),
    [
        (NEGATIVES[::-1], "entry of another row", 1),
        (NEGATIVES[:1], "not one entry a test row", None),
        ({"a": 1}, "not one entry a test row", None),
        ([NEGATIVES[0], [[5, 4, 1], 0]], "malformed entry", 2),
        ([NEGATIVES[0], [[5, 4, 1], 0, [2, 5]]], "negatives that are no items", 2),
        ([NEGATIVES[0], [[5, 4, 1], 0, ["2"]]], "negatives that are no items", 2),
        ([NEGATIVES[0], [[5, 4, 1], 0, []]], "negatives that are no items", 2),
    ],
)
def test_candidates_that_do_not_fit_are_refused(tmp_path: Path, candidates: Any, problem: str, row: int | None):
    with pytest.raises(InputError, match=problem) as caught:
        read([domain_in(tmp_path, "Food", candidates=candidates)], SourceOptions())
    assert caught.value.row == row


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def test_a_program_among_the_candidates_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"(posix|os)\.system"):
        read([domain_in(tmp_path, "Food", candidates=[Evil()])], SourceOptions())


@pytest.mark.parametrize(
    ("files", "problem", "row", "column"),
    [
        ({"train_data": "5\t0\t1\n5\t0\tx\n"}, "unparsable number", 2, "item 2"),
        ({"train_data": "a\t0\t1\n"}, "unparsable number", 1, "user"),
        ({"valid_data": "5\t0\t-1\n"}, "out of range", 1, "item 2"),
        ({"test_data": "5\t0\t1\n\n5\t0\t5\n"}, "outside its domain", 3, None),
        ({"test_data": "5\t0\n"}, "row too short", 1, None),
        ({"train_data": "5\n"}, "row too short", 1, None),
        ({"train_data": "5 0 1\n"}, "row too short", 1, None),
        ({"num_items": "many"}, "unparsable number", 1, "num_items"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(
    tmp_path: Path, files: dict[str, str], problem: str, row: int, column: str | None
):
    with pytest.raises(InputError, match=problem) as caught:
        read([domain_in(tmp_path, "Food", **files)], SourceOptions())
    assert (caught.value.row, caught.value.column) == (row, column)


def test_missing_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no domain"):
        read([tmp_path], SourceOptions())
    domain_in(tmp_path, "Food")
    (tmp_path / "Food" / "valid_data.txt").unlink()
    with pytest.raises(InputError, match="a file is missing"):
        read([tmp_path], SourceOptions())
    (tmp_path / "Food" / "valid_data.txt.gz").write_bytes(gzip.compress(VALID.encode())[:-4])
    with pytest.raises(InputError, match="truncated"):
        read([tmp_path], SourceOptions())


PUBLISHED = {
    # items, users, rows of train / valid / test, events, test targets never in train rows (percent)
    "Food": (13_564, 3_904, (4_977, 1_307, 1_332), 66_950, 13.9),
    "Kitchen": (32_918, 10_028, (11_100, 2_172, 2_254), 133_560, 17.1),
    "Clothing": (34_909, 6_010, (5_720, 818, 866), 68_864, 36.6),
    "Beauty": (17_780, 4_210, (4_668, 836, 855), 65_465, 18.0),
}
OVERLAP = {"FK": 2891, "FC": 2541, "FB": 2786, "KC": 4486, "KB": 3133, "CB": 2717}


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("fkcb", [shared_data / "fkcb_feddcsr"], tmp_path / "out")
    manifest = dataset.manifest
    assert (manifest.counts.users, manifest.counts.events, manifest.counts.items) == (12_049, 334_839, 99_171)
    lengths = np.diff(dataset.sequence_offsets)
    assert (lengths.min(), lengths.max()) == (4, 16)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    people = {}
    for name, (items, users, rows, events, cold) in PUBLISHED.items():
        domain = manifest.domains.index(name)
        counts = manifest.counts.domains[name]
        assert (counts.items, counts.users, counts.events) == (items, users, events)
        inside = dataset.domain == domain
        trained = np.unique(owner[inside & (dataset.role == 0)])
        held_out = [int((inside & (dataset.role == role)).sum()) for role in (1, 2)]
        assert (len(trained), *held_out) == rows
        seen = np.isin(dataset.item[inside & (dataset.role == 2)], dataset.item[inside & (dataset.role == 0)])
        assert round(100 * (1 - float(seen.mean())), 1) == cold
        people[name[0]] = set(dataset.sequence_user[np.unique(owner[inside])].tolist())
    assert {pair: len(people[pair[0]] & people[pair[1]]) for pair in OVERLAP} == OVERLAP
    assert len(set.intersection(*people.values())) == 1348


def test_the_published_candidates_are_kept_for_three_domains(shared_data: Path):
    frame = read([shared_data / "fkcb_feddcsr"], SourceOptions()).candidates["fixed"]
    assert dict(frame.group_by("domain").len().rows()) == {"Food": 1332, "Clothing": 866, "Beauty": 855}
    assert frame["negatives"].list.len().unique().to_list() == [999]
    assert frame["sequence"].str.contains("/test/").all()
    assert frame.schema["negatives"] == pl.List(pl.String)
