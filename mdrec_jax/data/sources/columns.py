"""Which column of a table is what, and how its values become ids, times and ratings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.formats import Format, scan
from mdrec_jax.errors import InputError

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userId"),
    "item": ("item", "item_id", "itemId"),
    "time": ("time", "timestamp"),
    "domain": ("domain",),
    "event": ("event", "event_type"),
    "rating": ("rating",),
    "title": ("title",),
    "category": ("category", "categories"),
}
"""The names that a column is looked for under when the user names none."""

LATEST_SECOND = 32_503_680_000
"""The year 3000: a larger "second" is a millisecond or less."""
EARLIEST_MILLISECOND = 100_000_000_000
"""1973 in milliseconds: what is all below it, and yet large, is seconds."""
ISO_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
ISO_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")


def find_column(
    names: Sequence[str], asked: str | None, what: str, file: Path, *, needed: bool, flag: str | None = None
) -> str | None:
    """The column for `what`: the one that was asked for, else one under a usual name.

    Args:
        flag: the option that names the column; None = --WHAT-column, "" = there is none.

    Returns:
        Its name; None where there is none and none is `needed`.

    Raises:
        InputError: missing, or two usual names at once.
    """
    flag = f"--{what}-column" if flag is None else flag
    found = ", ".join(names)
    if asked is not None:
        if asked not in names:
            raise InputError("missing column", file=file, row=1, column=asked, found=found, expected=f"as {flag} says")
        return asked
    usual = [name for name in USUAL_NAMES[what] if name in names]
    if len(usual) > 1:
        hint = f"name one with {flag}" if flag else "leave one of them out"
        raise InputError("which column is it?", file=file, row=1, column=what, found=" and ".join(usual), hint=hint)
    if not usual and needed:
        expected = f"a column {what}" + (f", or {flag} NAME" if flag else "")
        raise InputError("missing column", file=file, row=1, column=what, found=found, expected=expected)
    return usual[0] if usual else None


def id_value(column: str, kind: pl.DataType, file: Path) -> pl.Expr:
    """A column of ids as text.

    Raises:
        InputError: the column's type is neither text nor whole numbers.
    """
    if kind.is_integer() or kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
        return pl.col(column).cast(pl.String)
    raise InputError("ids of a wrong type", file=file, column=column, found=kind, expected="text or whole numbers")


def time_value(column: str, kind: pl.DataType, unit: str | None, file: Path) -> pl.Expr:
    """A column of times as Int64 seconds since the epoch (rounded down); null where a value cannot be one.

    Args:
        column: its name.
        kind: its type: text, numbers, or times of their own.
        unit: s, ms or iso; None = seconds.
        file: for errors.

    Raises:
        InputError: a type that holds no times.
    """
    value = pl.col(column)
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return (value.cast(pl.Datetime("us")) if kind == pl.Date else value).dt.epoch("s")
    if kind == pl.String and unit == "iso":
        return _iso_value(value)
    if kind == pl.String:
        whole, real = value.cast(pl.Int64, strict=False), value.cast(pl.Float64, strict=False)
        number = pl.coalesce(whole, real.floor().cast(pl.Int64, strict=False))
    elif kind.is_integer() and unit != "iso":
        number = value.cast(pl.Int64, strict=False)
    elif kind.is_float() and unit != "iso":
        number = value.floor().cast(pl.Int64, strict=False)
    else:
        expected = "a date or time, or text" if unit == "iso" else "a number, a date or time, or text"
        raise InputError("times of a wrong type", file=file, column=column, found=kind, expected=expected)
    seconds = number.floordiv(1000) if unit == "ms" else number
    return pl.when(seconds < LATEST_SECOND).then(seconds)


def _iso_value(value: pl.Expr) -> pl.Expr:
    day = value.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    plain = [
        value.str.strip_suffix("Z").str.to_datetime(pattern, strict=False, time_unit="us", time_zone=None)
        for pattern in ISO_FORMATS
    ]
    zoned = [
        value.str.to_datetime(pattern, strict=False, time_unit="us")
        .dt.convert_time_zone("UTC")
        .dt.replace_time_zone(None)
        for pattern in ISO_ZONED
    ]
    return pl.coalesce(day, *plain, *zoned).dt.epoch("s")


def rating_value(column: str, kind: pl.DataType, file: Path) -> pl.Expr:
    """A column of ratings as Float64: null where there is none, NaN where it cannot be read.

    Raises:
        InputError: a type that holds no numbers.
    """
    value = pl.col(column)
    if kind == pl.String:
        number = value.cast(pl.Float64, strict=False)
        return pl.when(number.is_null() & value.is_not_null() & (value != "")).then(float("nan")).otherwise(number)
    if kind.is_numeric():
        return value.cast(pl.Float64)
    raise InputError("ratings of a wrong type", file=file, column=column, found=kind, expected="numbers")


@dataclass(frozen=True)
class TimeProblem:
    """What is wrong with a time, in words."""

    problem: str
    expected: str
    hint: str | None


def explain_time(text: str, unit: str | None) -> TimeProblem:
    """Says why a value is no time in `unit`, and which unit it looks like."""
    expected = {
        "ms": "milliseconds since 1970",
        "iso": "a date such as 2014-07-23 or 2014-07-23T10:00:00Z",
    }.get(unit or "s", "seconds since 1970")
    try:
        number = float(text)
    except ValueError:
        dated = len(text) >= 8 and text[:4].isdigit() and text[4] in "-/"
        return TimeProblem("unparsable time", expected, "use --time-unit iso" if dated and unit != "iso" else None)
    if not math.isfinite(number):
        return TimeProblem("a time that is not a number", expected, None)
    if number < 0:
        return TimeProblem("a negative time", expected, None)
    likely = "ms" if number >= EARLIEST_MILLISECOND else "s"
    hint = f"looks like {'milliseconds' if likely == 'ms' else 'seconds'}: use --time-unit {likely}"
    if number >= EARLIEST_MILLISECOND * 1000:
        hint = "looks like microseconds or nanoseconds: divide it first"
    return TimeProblem("a time of another unit", expected, hint if likely != (unit or "s") else None)


def refuse_seconds(file: Path, kind: Format, column: str, unit: str | None) -> None:
    """Refuses times that all look like seconds where milliseconds were announced.

    Raises:
        InputError: at the first row.
    """
    if unit != "ms":
        return
    frame = scan(file, kind, [column])
    type_of = frame.collect_schema()[column]
    if not (type_of.is_numeric() or type_of == pl.String):
        return
    first = frame.head(1000).collect()[column].cast(pl.Float64, strict=False).drop_nulls()
    looks = first.is_between(EARLIEST_MILLISECOND // 1000, EARLIEST_MILLISECOND - 1)
    if len(first) and looks.all():
        said = explain_time(str(first[0]), "ms")
        raise InputError(
            said.problem,
            file=file,
            row=2 if kind in ("csv", "tsv") else 1,
            column=column,
            found=f"{first[0]:.0f}",
            expected=said.expected,
            hint=said.hint,
        )
