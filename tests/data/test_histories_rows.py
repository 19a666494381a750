"""Files of histories: every row is an event, somebody without one, an error with its place, or counted."""

import csv
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import blocks
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError
from mdrec_jax.serve.users import Users, read_histories

START = 1_400_000_000
HEADER = "user,note,item,domain,time"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("histories")
    rows = [(f"u{n % 5}", f"i{n % 7}", "AB"[n % 2], START + 86_400 * n) for n in range(60)]
    pl.DataFrame(rows, schema=["user", "item", "domain", "time"], orient="row").write_csv(folder / "log.csv")
    source = SourceOptions(domain_column="domain")
    return prepare("csv", [folder / "log.csv"], folder / "d", PrepareOptions(min_user=1, min_item=1, source=source))


def event(number: int, note: str = "ok") -> str:
    return f"v{number % 3},{note},i{number % 7},{'AB'[number % 2]},{START + number}"


def written(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_text(end.join([HEADER, *lines]) + end, newline="", encoding="utf-8")
    return path


def events_of(users: Users) -> int:
    assert users.histories.offsets[-1] == len(users.histories.item)
    return len(users.histories.item)


@pytest.mark.parametrize("block", [64, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("notes", "row", "problem"),
    [
        ({3: '6"', 9: '8"'}, 5, "a quote inside a field"),
        ({3: '"6" pipe'}, 5, "does not end at its closing quote"),
        ({3: '"begins', 9: 'ends"'}, 5, "each of which looks like a row"),
        ({11: '"no end'}, 13, "never closed"),
    ],
)
def test_a_stray_quote_in_a_column_that_nobody_reads_is_refused(
    world: Dataset, tmp_path: Path, monkeypatch, notes, row, problem, end, block
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    path = written(tmp_path / "h.csv", [event(n, notes.get(n, "ok")) for n in range(12)], end)
    with pytest.raises(InputError, match=problem) as caught:
        read_histories(path, world)
    assert (caught.value.file, caught.value.row) == (path, row)


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_quotes_that_are_written_twice_and_quoted_newlines_lose_nothing(
    world: Dataset, tmp_path: Path, monkeypatch, block
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    text = io.StringIO(newline="")
    notes = ['6"', "two\nlines", 'a "word"', "a,b", "\r\n", ""]
    rows = [[f"v{n % 3}", notes[n % 6], f"i{n % 7}", "AB"[n % 2], START + n] for n in range(40)]
    csv.writer(text, lineterminator="\n").writerows([HEADER.split(","), *rows])
    path = tmp_path / "h.csv"
    path.write_text(text.getvalue(), newline="")
    users = read_histories(path, world, skip_bad_rows=True)
    assert (users.names, users.counts) == (["v0", "v1", "v2"], {"unknown items": 0})
    assert np.diff(users.histories.offsets).tolist() == [14, 13, 13]
    expected = [START + n for person in range(3) for n in range(40) if n % 3 == person]
    assert users.histories.time is not None
    assert users.histories.time.tolist() == expected


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_rows_that_cannot_be_used_are_counted_by_reason(world: Dataset, tmp_path: Path, monkeypatch, block) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    lines = [event(n) for n in range(30)]
    lines[2] = event(2, '6" pipe')
    lines[4] += ",more"
    lines[6] = f",ok,i1,A,{START}"
    lines[9] = f"v0,ok,i1,C,{START}"
    lines[12] = "v0,ok,i1,A,tomorrow"
    lines[13] = "v0,ok,i1,A,-5"
    lines[15] = f"v0,ok,i1,A,{START + 2**31}"
    lines[20] = f"v0,ok,nowhere,A,{START}"
    lines[21] = "v9,ok,,,"
    path = written(tmp_path / "h.csv", lines)
    with pytest.raises(InputError, match="row 4"):
        read_histories(path, world)
    users = read_histories(path, world, skip_bad_rows=True)
    assert users.counts == {
        "rows with a stray quote or carriage return": 1,
        "rows with too many fields": 1,
        "rows without a usable domain": 1,
        "rows without a usable time": 3,
        "rows without a usable user": 1,
        "unknown items": 1,
    }
    assert users.names == ["v0", "v1", "v2", "v9"]
    assert events_of(users) == 30 - 7 - 1  # v9 has no event


def test_bad_rows_of_json_and_parquet_are_counted_too(world: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    good = [f'{{"user": "v", "item": "i{n}", "domain": "A", "time": {START + n}}}' for n in range(5)]
    path.write_text("\n".join(['{"user": "v", ', *good, '{"user": ["v"], "item": "i1", "domain": "A", "time": 5}']))
    users = read_histories(path, world, skip_bad_rows=True)
    assert events_of(users) == 5
    assert users.counts == {
        "rows that are no JSON object": 1, "rows with a list or an object for a value": 1, "unknown items": 0
    }  # fmt: skip
    frame = pl.DataFrame(
        {"user": ["v", None, "w"], "item": ["i1"] * 3, "domain": ["A", "A", None], "time": [START] * 3}
    )
    frame.write_parquet(tmp_path / "h.parquet")
    users = read_histories(tmp_path / "h.parquet", world, skip_bad_rows=True)
    assert events_of(users) == 1
    assert users.counts == {"rows without a usable domain": 1, "rows without a usable user": 1, "unknown items": 0}


def test_what_no_row_alone_is_to_blame_for_is_refused_by_its_own_name(world: Dataset, tmp_path: Path) -> None:
    lines = [event(0, '6" pipe'), event(1), event(2), "v0,ok,i1,A,1400000"]
    path = written(tmp_path / "h.csv", lines)
    with pytest.raises(InputError, match="times of two units") as caught:
        read_histories(path, world, skip_bad_rows=True)
    assert caught.value.row == 5
    with pytest.raises(InputError, match="names no user"):
        read_histories(written(tmp_path / "n.csv", [f",ok,i1,A,{START}"]), world, skip_bad_rows=True)
