"""ABXI's files: one mixed, timed sequence a user over two domains."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.abxi import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.reading import read_json
from mdrec_jax.errors import InputError

ITEMS = {"ASIN-1": [1, 0], "ASIN-2": [2, 0], "ASIN-3": [3, 1], "ASIN-4": [4, 1]}
LINES = ["0 1|100 3|100 2|300", "1 4|50 2|60 1|70 3|80"]


def folder_of(path: Path, lines: list[str] = LINES, items: object = ITEMS, users: object = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "abe_50_preprocessed.txt").write_text("".join(line + "\n" for line in lines))
    (path / "map_item_50.txt").write_text(json.dumps(items))
    with gzip.open(path / "map_user_50.txt.gz", "wt") as file:
        json.dump({"ann": 0, "bob": 1} if users is None else users, file)
    return path


def test_events_carry_the_original_ids_and_the_domain_of_their_item(tmp_path: Path):
    log = read([folder_of(tmp_path)], SourceOptions())
    events = log.events.collect()
    assert events.select("user", "item", "domain", "time").rows()[:3] == [
        ("ann", "ASIN-1", "Beauty", 100),
        ("ann", "ASIN-3", "Electronics", 100),
        ("ann", "ASIN-2", "Beauty", 300),
    ]
    assert events["order"].to_list() == list(range(7))
    assert (log.domains, log.default_split, log.has_time, log.ordered) == (
        ("Beauty", "Electronics"),
        "loo-mixed",
        True,
        True,
    )
    assert {path.name for path in log.files} == {"abe_50_preprocessed.txt", "map_item_50.txt", "map_user_50.txt.gz"}


@pytest.mark.parametrize(
    ("lines", "problem", "row"),
    [
        (["0 1|100", "7 1|100"], "user that the map does not have", 2),
        (["0 1|100 9|100"], "item with no domain", 1),
        (["0 1|100", "", "1 2|x"], "unparsable event", 3),
        (["0 1|100", "1 2"], "unparsable event", 2),
        (["0 1|100", "1 2|-5"], "unparsable event", 2),
        (["0 1|100", "1 2|" + "9" * 30], "unparsable event", 2),
        (["0 1|100", "1"], "user without events", 2),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, lines: list[str], problem: str, row: int):
    with pytest.raises(InputError, match=problem) as caught:
        read([folder_of(tmp_path, lines)], SourceOptions())
    assert caught.value.row == row


@pytest.mark.parametrize("entry", [[1], [1, 2], [1, None], "1", ["1", 0]])
def test_an_item_with_no_domain_is_refused(tmp_path: Path, entry: object):
    with pytest.raises(InputError, match="an item with no domain"):
        read([folder_of(tmp_path, items={**ITEMS, "ASIN-5": entry})], SourceOptions())


def test_numbers_given_twice_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="item number given twice"):
        read([folder_of(tmp_path, items={**ITEMS, "ASIN-5": [4, 1]})], SourceOptions())
    with pytest.raises(InputError, match="user number given twice"):
        read([folder_of(tmp_path, users={"ann": 0, "bob": 0})], SourceOptions())


def test_missing_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        read([tmp_path / "none"], SourceOptions())
    with pytest.raises(InputError, match="no single file of sequences"):
        read([tmp_path], SourceOptions())
    folder = folder_of(tmp_path)
    users = folder / "map_user_50.txt.gz"
    users.write_bytes(users.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated"):
        read([folder], SourceOptions())
    users.unlink()
    with pytest.raises(InputError, match="a file is missing"):
        read([folder], SourceOptions())


def test_an_option_that_it_would_ignore_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--time-column"):
        read([folder_of(tmp_path)], SourceOptions(time_column="t"))


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("abxi", [shared_data / "abxi_beauty_electronics"], tmp_path / "out", PrepareOptions(tie="file"))
    counts = dataset.manifest.counts
    assert (counts.users, counts.sequences, counts.items, counts.events) == (4474, 4474, 24_567, 114_129)
    beauty, electronics = (counts.domains[name] for name in ("Beauty", "Electronics"))
    assert (beauty.users, beauty.items, beauty.events) == (4474, 10_379, 50_329)
    assert (electronics.users, electronics.items, electronics.events) == (4474, 14_188, 63_800)
    lengths = np.diff(dataset.sequence_offsets)
    assert (lengths.min(), np.median(lengths), lengths.max()) == (10, 20, 50)
    assert round(float(lengths.mean()), 1) == 25.5
    day = np.datetime64("1970-01-01", "s") + np.array([dataset.time.min(), dataset.time.max()])
    assert [str(value)[:10] for value in day] == ["2000-01-06", "2014-07-23"]
    for role, published in ((2, [1875, 2599]), (1, [2086, 2388])):
        assert np.bincount(dataset.domain[dataset.role == role]).tolist() == published


def test_the_sequences_are_the_published_lines(shared_data: Path):
    folder = shared_data / "abxi_beauty_electronics"
    events = read([folder], SourceOptions()).events.collect()
    items = {asin: str(entry[0]) for asin, entry in read_json(folder / "map_item_50.txt.gz").items()}
    tokens = events.select(pl.col("item").replace_strict(items) + "|" + pl.col("time").cast(pl.String))[
        "item"
    ].to_list()
    with gzip.open(folder / "abe_50_preprocessed.txt.gz", "rt") as file:
        assert tokens == [token for line in file for token in line.split()[1:]]
