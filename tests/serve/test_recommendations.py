"""Recommended items as a table, and where it may be written."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.serve.recommend import Lists
from mdrec_jax.serve.recommendations import check_ending, to_frame, write_recommendations
from mdrec_jax.serve.users import Users
from tests.data.make import make_dataset, numbered


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("lists") / "world", numbered(6, 6, 8, ("a", "b")))


def users(*names: str) -> Users:
    nothing: Any = None
    return Users(list(names), nothing, np.zeros((len(names), 2), np.int64), {})


def test_a_row_is_an_item_and_short_lists_end_where_they_end(world: Dataset) -> None:
    ids = world.items(1)["id"].to_list()
    raw = dict(zip(ids, world.items(1)["raw"].to_list(), strict=True))
    lists = Lists(
        np.asarray([[ids[1], ids[0], 0], [0, 0, 0], [ids[2], 0, 0]], np.int32),
        np.asarray([[2.5, 1.0, -9.0], [7.0, 7.0, 7.0], [3.0, -9.0, -9.0]]),
        ["", "", "no history"],
        seen=0,
    )
    found = to_frame(world, users("x", "y", "z"), 1, lists).select(pl.exclude("title")).rows()
    assert found == [
        ("x", "b", 1, raw[ids[1]], 2.5, None),
        ("x", "b", 2, raw[ids[0]], 1.0, None),
        ("z", "b", 1, raw[ids[2]], 3.0, "no history"),
    ]


def test_a_place_that_cannot_be_written_is_refused_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder.csv", tmp_path / "file" / "out.csv"):
        with pytest.raises(InputError):
            check_ending(path)
    for name in ("out", "out.txt", "out.csv.gz"):
        with pytest.raises(InputError, match="unknown format"):
            check_ending(tmp_path / name)


@pytest.mark.parametrize(
    ("ending", "read"), [(".csv", pl.read_csv), (".jsonl", pl.read_ndjson), (".parquet", pl.read_parquet)]
)
def test_the_ending_says_how_it_is_written(ending: str, read: Any, tmp_path: Path) -> None:
    frames = [pl.DataFrame({"user": ["x"], "rank": [1]}), pl.DataFrame({"user": ["y"], "rank": [2]})]
    write_recommendations(tmp_path / f"out{ending}", frames)
    assert read(tmp_path / f"out{ending}").rows() == [("x", 1), ("y", 2)]
