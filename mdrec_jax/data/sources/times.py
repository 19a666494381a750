"""Times of a table: in which unit a column writes them, and their value as seconds and nanoseconds of the second."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.formats import Format, scan
from mdrec_jax.data.sources.textform import TextForm
from mdrec_jax.errors import InputError

type Unit = Literal["s", "ms", "us", "ns", "iso"]

A_SECOND: dict[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many of a unit make a second."""
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "iso": "dates"}
LATEST_SECOND = 32_503_680_000
"""The year 3000: a larger "second" is a millisecond or less."""
EARLIEST = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
"""1973 in each unit: a number from here up to the next unit's looks like this unit."""
NO_TIME = "none"
"""What an option says in place of a column's name when the order of the rows is the order of events."""
MOST_LOOKED_AT = 200
"""Columns of which the first are looked at for times."""
HEAD = 1000
"""Rows that are looked at before the whole column is."""

# [0-9] and not \d, which would take digits of every script
_COMPACT = r"^\s*(?:19[7-9][0-9]|20[0-9][0-9])(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])" + (
    r"(?:T?(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:[0-5][0-9])?)?Z?)?\s*$"
)
"""YYYYMMDD, with hours, minutes and seconds behind it where there are any."""
_FRACTION = r"(:[0-9]{2}:[0-9]{2})[.,]([0-9]+)"
_ISO = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
_ISO_ZONED = ("%Y-%m-%dT%H:%M:%S%#z", "%Y-%m-%d %H:%M:%S%#z", "%Y-%m-%d %H:%M:%S %#z")


def unit_of(
    file: Path,
    kind: Format,
    column: str,
    asked: str | None,
    *,
    form: TextForm | None = None,
    bad_rows: BadRows | None = None,
) -> str:
    """How a column writes its times: as `asked`; else dates without separators (YYYYMMDD, YYYYMMDDhhmmss) where every
    value is one, else seconds.

    Raises:
        InputError: the unit that was asked for is not the one that the values are in, or some values are dates without
            separators and others are not.
    """
    frame = scan(file, kind, [column], form=form, bad_rows=bad_rows)
    type_of = frame.collect_schema()[column]
    if asked == "iso" or not (type_of.is_integer() or type_of.is_float() or type_of == pl.String):
        return asked or "s"
    text = _text(pl.col(column), type_of)
    filled = frame.select("_row", text=text).filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
    head = filled.head(HEAD).collect()
    if head.is_empty():
        return asked or "s"
    if head.select(pl.col("text").str.contains(_COMPACT).mean()).item() > 0.5:
        other = filled.filter(~pl.col("text").str.contains(_COMPACT)).head(1).collect()
        if other.is_empty() and asked is None:
            return "iso"
        if other.is_empty():
            raise _refusal(file, column, head, f"dates without separators, not {WORDS[asked or 's']}", "iso")
        raise _refusal(file, column, other, "times written in two ways", None)
    if asked in ("ms", "us", "ns"):
        number = head["text"].cast(pl.Float64, strict=False).drop_nulls()
        looks = {looks_like(value) for value in number}
        if len(looks) == 1 and (likely := looks.pop()) not in (None, asked):
            raise _refusal(file, column, head, "times of another unit", likely)
    return asked or "s"


def _text(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Text and numbers as text; whole numbers of a float type without their point."""
    if not kind.is_float():
        return value.cast(pl.String)
    whole = value.is_finite() & (value == value.floor()) & (value.abs() < 2**53)
    return pl.when(whole).then(value.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(value.cast(pl.String))


def _refusal(file: Path, column: str, rows: pl.DataFrame, problem: str, unit: str | None) -> InputError:
    return InputError(
        problem,
        file=file,
        row=int(rows["_row"][0]),
        column=column,
        found=rows["text"][0],
        expected="one way of writing a time in every row",
        hint=f"looks like {WORDS[unit]}: use --time-unit {unit}" if unit else "bring the column to one form first",
    )


def unused_times(file: Path, kind: Format, names: Sequence[str], form: TextForm | None = None) -> str | None:
    """The first of some columns that looks like times: temporal, or text of dates, or numbers of seconds or a smaller
    unit between 1985 and 2100 under a name that speaks of time."""
    names = [name for name in names if name != "_row"][:MOST_LOOKED_AT]
    if not names:
        return None
    # what is wrong with the rows is said, or counted, when the events are read
    looked_at = scan(file, kind, names, form=form, bad_rows=BadRows(), lists=True)
    head = looked_at.head(HEAD).select(names).collect()
    for column in head:
        if column.dtype.is_temporal():
            return column.name
        if not (column.dtype.is_numeric() or column.dtype == pl.String):
            continue
        filled = column.cast(pl.String).drop_nulls()
        filled = filled.filter(filled.str.strip_chars() != "")
        if filled.is_empty():
            continue
        seconds = [filled.cast(pl.Float64, strict=False) / a_second for a_second in A_SECOND.values()]
        number = any(one.is_between(480_000_000, 4_102_444_800).fill_null(False).all() for one in seconds)
        named = re.search(r"time|date|stamp|epoch|moment|when|_at$|At$|(^|_)(ts|day)$", column.name, re.IGNORECASE)
        if filled.str.contains(r"^\s*(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]([T ][0-9]{2}:.*)?$").all():
            return column.name
        if named and (number or filled.str.contains(_COMPACT).all()):
            return column.name
    return None


def time_values(column: str, kind: pl.DataType, unit: str | None, file: Path) -> tuple[pl.Expr, pl.Expr]:
    """A column of times as (Int64 seconds since the epoch, rounded down; Int32 nanoseconds of that second).

    Seconds are null where a value cannot be a time; digits below a nanosecond are cut off.

    Args:
        column: its name.
        kind: its type: text, numbers, or times of their own.
        unit: s, ms, us, ns or iso (numbers and text without separators are then YYYYMMDD and so on); None = seconds.
        file: for errors.

    Raises:
        InputError: a type that holds no times.
    """
    value = pl.col(column)
    if kind == pl.Date:
        return value.cast(pl.Int64) * 86_400, pl.lit(0, pl.Int32)
    if isinstance(kind, pl.Datetime):
        ticks = value.dt.replace_time_zone(None) if kind.time_zone is None else value.dt.convert_time_zone("UTC")
        return _scaled(ticks.to_physical(), pl.lit(0, pl.Int64), A_SECOND[kind.time_unit])
    if kind.is_decimal():
        value, kind = value.cast(pl.String), pl.String()
    if not (kind == pl.String or kind.is_integer() or kind.is_float()):
        raise InputError(
            "times of a wrong type", file=file, column=column, found=kind, expected="a number, a date or time, or text"
        )
    if unit == "iso":
        return _iso_values(_text(value, kind))
    number, below = _parts(value, kind)
    seconds, fraction = _scaled(number, below, A_SECOND[unit or "s"])
    return pl.when(seconds < LATEST_SECOND).then(seconds), fraction


def _parts(value: pl.Expr, kind: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
    """A number's whole part, rounded down, and the billionths above it."""
    if kind.is_integer():
        return value.cast(pl.Int64, strict=False), pl.lit(0, pl.Int64)
    odd = value if kind.is_float() else value.map_batches(_not_whole, return_dtype=pl.String(), is_elementwise=True)
    real = odd.cast(pl.Float64, strict=False)
    real_whole = real.floor().cast(pl.Int64, strict=False)
    real_below = ((real - real.floor()) * 1e9).cast(pl.Int64, strict=False).clip(0, 999_999_999)
    if kind.is_float():
        return real_whole, real_below.fill_null(0)
    # text has more digits than a float holds
    pattern = r"^\s*([0-9]+)\.([0-9]*)\s*$"
    whole = pl.coalesce(value.cast(pl.Int64, strict=False), odd.str.extract(pattern, 1).cast(pl.Int64, strict=False))
    digits = odd.str.extract(pattern, 2).str.head(9).str.pad_end(9, "0").cast(pl.Int64, strict=False)
    below = pl.when(whole.is_null()).then(real_below).otherwise(digits)
    return pl.coalesce(whole, real_whole), below.fill_null(0)


def _not_whole(text: pl.Series) -> pl.Series:
    """The texts, or nothing at all where every one is a whole number: looking for points takes most of the time."""
    if text.cast(pl.Int64, strict=False).null_count() > text.null_count():
        return text
    return pl.Series(text.name, [None], pl.String).new_from_index(0, len(text))


def _scaled(number: pl.Expr, below: pl.Expr, a_second: int) -> tuple[pl.Expr, pl.Expr]:
    """Numbers of a unit, and billionths of it, as seconds and nanoseconds."""
    fraction = (number % a_second) * (10**9 // a_second) + below // a_second
    return number.floordiv(a_second), fraction.fill_null(0).cast(pl.Int32)


def _iso_values(text: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    text = text.str.strip_chars()
    fraction = text.str.extract(_FRACTION, 2).str.head(9).str.pad_end(9, "0").cast(pl.Int32, strict=False)
    plain = text.str.replace(_FRACTION, "${1}").str.strip_suffix(" UTC")
    digits = pl.when(text.str.contains(_COMPACT)).then(text.str.replace_all("[TZ]", "").str.pad_end(14, "0"))
    moments = [
        plain.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
        _moment(digits, "%Y%m%d%H%M%S"),
        *(_moment(plain.str.strip_suffix("Z"), pattern) for pattern in _ISO),
    ]
    zoned = [
        plain.str.to_datetime(pattern, strict=False, time_unit="us")
        .dt.convert_time_zone("UTC")
        .dt.replace_time_zone(None)
        for pattern in _ISO_ZONED
    ]
    return pl.coalesce(*moments, *zoned).dt.epoch("s"), fraction.fill_null(0)


def _moment(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.to_datetime(pattern, strict=False, time_unit="us", time_zone=None)


def looks_like(number: float) -> str | None:
    """The unit that a number of so many "since 1970" is likely in; None below what any unit has since 1973."""
    return next((unit for unit in ("ns", "us", "ms", "s") if number >= EARLIEST[unit]), None)


def explain_time(text: str, unit: str | None) -> tuple[str, str, str | None]:
    """Says why a value is no time in `unit`, and which unit it looks like: (problem, expected, unit it looks like)."""
    expected = "a date such as 2014-07-23 or 2014-07-23T10:00:00Z"
    if unit != "iso":
        expected = f"{WORDS[unit or 's']} since 1970"
    dated = re.match(r"\s*([0-9]{4})[-/.]", text) or (unit != "iso" and re.match(_COMPACT, text))
    if unit == "iso" and re.match(_COMPACT, text):
        return "a date that does not exist", expected, None
    try:
        number = float(text)
    except ValueError:
        if dated and unit == "iso" and text.strip()[:4] < "1970":
            return "a time before 1970", expected, None
        return "unparsable time", expected, "iso" if dated and unit != "iso" else None
    if not math.isfinite(number):
        return "a time that is not a number", expected, None
    if number < 0:
        return "a negative time", expected, None
    likely = "iso" if dated and unit != "iso" else looks_like(number) or "s"
    return "a time of another unit", expected, likely if likely != (unit or "s") else None


def bad_time(
    file: Path,
    kind: Format,
    column: str,
    row: int,
    text: str,
    unit: str | None,
    *,
    form: TextForm | None = None,
    skip: bool = False,
) -> InputError:
    """The error for a value that is no time in `unit`. A unit is only advised where the whole column is in it, rows
    that cannot be read left out with `skip`."""
    problem, expected, likely = explain_time(text, unit)
    hint = None
    if likely is not None:
        hint = f"looks like {WORDS[likely]}: use --time-unit {likely}"
        other = _others(file, kind, column, likely, form, BadRows() if skip else None)
        if other:
            hint = f"looks like {WORDS[likely]}, but {other:,} other values do not: bring the column to one unit first"
    return InputError(problem, file=file, row=row, column=column, found=text, expected=expected, hint=hint)


def _others(file: Path, kind: Format, column: str, unit: str, form: TextForm | None, bad_rows: BadRows | None) -> int:
    """How many values of a column do not look like `unit`."""
    rows = scan(file, kind, [column], form=form, bad_rows=bad_rows)
    text = rows.select(text=pl.col(column).cast(pl.String)).filter(pl.col("text") != "")
    number = pl.col("text").cast(pl.Float64, strict=False)
    if unit == "iso":
        looks = pl.col("text").str.contains(_COMPACT) | pl.col("text").str.contains(r"^\s*[0-9]{4}[-/.]")
    else:
        looks = number.is_between(EARLIEST[unit], 1000 * EARLIEST[unit], closed="left")
    return int(text.select((~looks.fill_null(False)).sum()).collect().item())
