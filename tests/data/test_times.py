"""Times of a table: their full value decides the order, a column is in one unit, dates are shown as they are read."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError
from tests.command import mdrec

EVENTS = 12
START = datetime(2020, 9, 13, 12, 26, 40)  # second 1,600,000,000


def items_in_order(path: Path, kind: str, out: Path, unit: str | None) -> list[list[str]]:
    """The raw items of each sequence of the dataset that a table becomes."""
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(time_unit=unit))  # type: ignore[arg-type]
    dataset = prepare(kind, [path], out, options)
    assert (np.asarray(dataset.time) == 1_600_000_000).all()
    raw = dict(dataset.items(0).select("id", "raw").iter_rows())
    cuts = dataset.sequence_offsets.tolist()
    return [[raw[item] for item in dataset.item[low:high].tolist()] for low, high in pairwise(cuts)]


def written_as(form: str, step: int) -> object:
    """A time of second 1,600,000,000, `step` steps into it, the smaller the form can hold the smaller."""
    moment = START + timedelta(microseconds=step)
    return {
        "ms": 1_600_000_000_000 + step,
        "ms text": f"1600000000000.{step:04d}",
        "us": 1_600_000_000_000_000 + step,
        "ns": 1_600_000_000_000_000_000 + step,
        "float": 1_600_000_000 + step / 1024,
        "text": f"1600000000.{step:09d}",
        "iso": moment.isoformat(),
        "iso, nine digits": f"2020-09-13T12:26:40.{step:09d}Z",
        "iso, comma and zone": f"2020-09-13 14:26:40,{step:06d}+02:00",
        "datetime": moment,
    }[form]


@pytest.mark.parametrize(
    ("form", "kind", "unit"),
    [
        ("ms", "csv", "ms"),
        ("ms", "jsonl", "ms"),
        ("ms text", "csv", "ms"),
        ("us", "csv", "us"),
        ("ns", "tsv", "ns"),
        ("ns", "parquet", "ns"),
        ("float", "csv", None),
        ("float", "parquet", None),
        ("text", "csv", None),
        ("text", "jsonl", "s"),
        ("iso", "csv", "iso"),
        ("iso, nine digits", "csv", "iso"),
        ("iso, comma and zone", "tsv", "iso"),
        ("datetime", "parquet", None),
    ],
)
def test_events_of_one_second_keep_their_order(tmp_path: Path, form: str, kind: str, unit: str | None) -> None:
    steps = np.random.default_rng(0).permutation(EVENTS).tolist()  # rows are not in order
    frame = pl.DataFrame(
        {
            "user": ["u"] * EVENTS + ["v"] * EVENTS,
            "item": [f"i{step}" for step in steps * 2],
            "time": [written_as(form, step + 1) for step in steps * 2],
        }
    )
    path = tmp_path / f"log.{kind}"
    write = {
        "csv": frame.write_csv,
        "tsv": lambda path: frame.write_csv(path, separator="\t"),
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }[kind]
    write(path)
    right = [f"i{step}" for step in range(EVENTS)]
    assert items_in_order(path, kind, tmp_path / "out", unit) == [right, right]


@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_parquet_datetimes_of_every_unit_keep_their_order(tmp_path: Path, unit: str) -> None:
    ticks = 1_600_000_000 * {"ms": 10**3, "ns": 10**9}[unit] + np.arange(EVENTS)[::-1]
    frame = pl.DataFrame({"user": "u", "item": [f"i{n}" for n in range(EVENTS)], "time": ticks})
    for number, kind in enumerate((pl.Datetime(unit), pl.Datetime(unit, "Asia/Tokyo"))):  # type: ignore[arg-type]
        frame.with_columns(pl.col("time").cast(kind)).write_parquet(tmp_path / "log.parquet")
        found = items_in_order(tmp_path / "log.parquet", "parquet", tmp_path / str(number), None)
        assert found == [[f"i{n}" for n in range(EVENTS)][::-1]]


def test_equal_times_are_still_shuffled(tmp_path: Path) -> None:
    rows = "".join(f"u,i{n},1600000000.{n // 40}\n" for n in range(80))
    (tmp_path / "log.csv").write_text("user,item,time\n" + rows)
    (found,) = items_in_order(tmp_path / "log.csv", "csv", tmp_path / "out", None)
    assert {*found[:40]} == {f"i{n}" for n in range(40)}
    assert found[:40] != [f"i{n}" for n in range(40)]


def test_reviews_in_milliseconds_keep_their_order(tmp_path: Path) -> None:
    lines = "".join(
        f'{{"user_id":"u","parent_asin":"i{n}","timestamp":{1_600_000_000_900 - n},"rating":5}}\n' for n in range(9)
    )
    (tmp_path / "Books.jsonl").write_text(lines)
    dataset = prepare("amazon", [tmp_path / "Books.jsonl"], tmp_path / "out", PrepareOptions(min_user=1, min_item=1))
    raw = dict(dataset.items(0).select("id", "raw").iter_rows())
    assert [raw[item] for item in dataset.item.tolist()] == [f"i{n}" for n in range(9)][::-1]


def log(folder: Path, *times: object) -> Path:
    """A table with an event a time."""
    path = folder / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u,i{n},{time}\n" for n, time in enumerate(times)))
    return path


def read(path: Path, out: Path, unit: str | None = None) -> list[int]:
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(time_unit=unit))  # type: ignore[arg-type]
    return np.asarray(prepare("csv", [path], out, options).time).tolist()


@pytest.mark.parametrize("unit", [None, "s", "ms", "us", "ns", "iso"])
@pytest.mark.parametrize(
    "odd", ["1600000000500", "1600000000500000", "1600000000500000000", "20200913", "20200913122640", "0", "18518"]
)
def test_no_unit_reads_a_column_of_two(tmp_path: Path, unit: str | None, odd: str) -> None:
    path = log(tmp_path, *[1_600_000_000 + n for n in range(1500)], odd)
    with pytest.raises(InputError) as error:
        read(path, tmp_path / "out", unit)
    assert (error.value.file, error.value.column) == (path, "time")
    assert error.value.row is not None
    if unit in (None, "s"):
        assert error.value.row == 1502
        assert "use --time-unit" not in str(error.value)


def test_one_second_among_milliseconds_is_refused_with_its_row(tmp_path: Path) -> None:
    path = log(tmp_path, *[1_600_000_000_000 + n for n in range(1500)], 1_600_000_001)
    with pytest.raises(InputError, match=r"row 1502.*two units"):
        read(path, tmp_path / "out", "ms")


@pytest.mark.parametrize(
    ("form", "second"),
    [("%Y%m%d", 0), ("%Y%m%d%H", 3600), ("%Y%m%d%H%M", 3660), ("%Y%m%d%H%M%S", 3661), ("%Y%m%dT%H%M%SZ", 3661)],
)
def test_dates_without_separators_are_recognised(tmp_path: Path, form: str, second: int) -> None:
    moments = [datetime(2020, 2, 27, 1, 1, 1) + timedelta(days=n) for n in range(9)]
    path = log(tmp_path, *[moment.strftime(form) for moment in moments])
    day = 1_582_761_600
    assert read(path, tmp_path / "out") == [day + 86_400 * n + second for n in range(9)]
    assert read(path, tmp_path / "out", "iso") == [day + 86_400 * n + second for n in range(9)]
    with pytest.raises(InputError, match=r"use --time-unit iso|two ways"):
        read(path, tmp_path / "out", "ms")


def test_dates_as_numbers_are_recognised_in_parquet(tmp_path: Path) -> None:
    for kind in (pl.Int32, pl.Float64):
        frame = pl.DataFrame({"user": "u", "item": list("abc"), "time": [20200228, 20200229, 20200301]})
        frame.with_columns(pl.col("time").cast(kind)).write_parquet(tmp_path / "log.parquet")
        dataset = prepare(
            "parquet", [tmp_path / "log.parquet"], tmp_path / "out", PrepareOptions(min_user=1, min_item=1)
        )
        assert np.diff(np.asarray(dataset.time)).tolist() == [86_400, 86_400]


def test_a_date_that_does_not_exist_among_dates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 4, column 'time': a date that does not exist"):
        read(log(tmp_path, "20200227", "20200228", "20200230"), tmp_path / "out")
    with pytest.raises(InputError, match="row 4, column 'time': times written in two ways"):
        read(log(tmp_path, *["20200228"] * 2, *["20201301"], *["20200228"] * 2000), tmp_path / "out")


def test_the_unit_is_looked_for_in_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number, times in enumerate(([1_600_000_000 + n for n in range(5)], [1_600_000_000_000 + n for n in range(5)])):
        log(folder, *times).rename(folder / f"part-{number}.csv")
    for unit, name in (("s", "part-1.csv"), ("ms", "part-0.csv")):
        with pytest.raises(InputError, match=name):
            read(folder, tmp_path / "out", unit)


def test_prepare_and_inspect_show_the_first_and_the_last_date(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = log(tmp_path, *[1_600_000_000 + 86_400 * n for n in range(9)])
    out = str(tmp_path / "out")
    assert mdrec("prepare", "csv", str(path), "--out", out, "--min-user=1", "--min-item=1") == 0
    shown = capsys.readouterr()
    assert "times: 2020-09-13 12:26:40 to 2020-09-21 12:26:40 (UTC)" in shown.out
    assert "note: " not in shown.err
    assert mdrec("inspect", out) == 0
    assert "times: 2020-09-13 12:26:40 to 2020-09-21 12:26:40 (UTC)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("times", "note"),
    [([43_831 + n for n in range(9)], "are they seconds"), ([15_000_000_000 + n for n in range(9)], "in the future")],
)
def test_times_that_are_hardly_seconds_get_a_note(tmp_path: Path, capsys: pytest.CaptureFixture, times, note) -> None:
    path = log(tmp_path, *times)
    assert mdrec("prepare", "csv", str(path), "--out", str(tmp_path / "o"), "--min-user=1", "--min-item=1") == 0
    assert note in capsys.readouterr().err


def test_a_folder_of_a_day_each_has_times(tmp_path: Path) -> None:
    for day in (11, 10, 12):
        (tmp_path / "logs" / f"date=2020-01-{day}").mkdir(parents=True)
        (tmp_path / "logs" / f"date=2020-01-{day}" / "a.csv").write_text(f"user,item\nu,i{day}\n")
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(time_column="date"))
    dataset = prepare("csv", [tmp_path / "logs"], tmp_path / "out", options)
    raw = dict(dataset.items(0).select("id", "raw").iter_rows())
    assert [raw[item] for item in dataset.item.tolist()] == ["i10", "i11", "i12"]
    assert np.diff(np.asarray(dataset.time)).tolist() == [86_400, 86_400]
