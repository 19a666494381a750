"""Text tables whose lines are split by a fixed string, as many published files are: no quoting, no header rules."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.compression import refuse_long, text_chunks
from mdrec_jax.data.sources.reading import decode, require_file
from mdrec_jax.errors import InputError


def split_lines(
    path: Path, separator: str, columns: list[str], *, header: bool, encoding: str = "utf-8"
) -> pl.DataFrame:
    """The fields of every line that is not blank: `row` (1-based line number) and one String column a field.

    Args:
        path: a text file, plain or gzip.
        separator: what stands between two fields, taken literally.
        columns: the names of all fields; with `header`, the first line must hold exactly these.

    Raises:
        InputError: missing, empty or damaged file, another header, or a line with more or fewer fields.
    """
    frame = _lines(path, encoding).with_row_index("row", 1).filter(pl.col("line").str.strip_chars() != "")
    expected = separator.join(columns)
    if header:
        found = frame["line"][0] if frame.height else ""
        if found != expected:
            raise InputError("wrong header", file=path, row=1, found=found, expected=expected)
        frame = frame[1:]
    if frame.height == 0:
        raise InputError("no line of data", file=path, expected=expected)
    odd = frame.filter(pl.col("line").str.count_matches(separator, literal=True) != len(columns) - 1)
    if odd.height:
        expected = f"{len(columns)} fields: {expected}"
        raise InputError(
            "wrong number of fields", file=path, row=odd["row"][0], found=odd["line"][0], expected=expected
        )
    fields = pl.col("line").str.split_exact(separator, len(columns) - 1).struct.rename_fields(columns).alias("fields")
    return frame.select("row", fields).unnest("fields")


def _lines(path: Path, encoding: str) -> pl.DataFrame:
    """Every line of a file, blank ones too, as the column `line`."""
    parts, rest, row = [], b"", 1
    for chunk, last in text_chunks(require_file(path), 4 << 20):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        refuse_long(rest, path, row + whole.count(b"\n") + len(newline))
        if newline:
            parts.append(pl.Series("line", decode(whole, path, row, encoding).split("\n"), dtype=pl.String))
            row += len(parts[-1])
        if last:
            parts.append(pl.Series("line", [decode(rest, path, row, encoding)], dtype=pl.String))
    if not parts:
        raise InputError("the file is empty", file=path, found="0 bytes unpacked", expected="lines of text")
    return pl.concat(parts).str.strip_chars_end("\r").to_frame()


def to_integers(frame: pl.DataFrame, column: str, path: Path, *, minimum: int = 0) -> pl.DataFrame:
    """`frame` with a String column read as Int64.

    Raises:
        InputError: a value is not a whole number or below `minimum`.
    """
    value = pl.col(column).cast(pl.Int64, strict=False)
    good = pl.when(value >= minimum).then(value)
    return _convert(frame, column, path, value=good, expected=f"a whole number from {minimum}")


def to_floats(frame: pl.DataFrame, column: str, path: Path, *, minimum: float = 0.0) -> pl.DataFrame:
    """`frame` with a String column read as Float64.

    Raises:
        InputError: a value is not a finite number or below `minimum`.
    """
    value = pl.col(column).cast(pl.Float64, strict=False)
    good = pl.when(value.is_finite() & (value >= minimum)).then(value)
    return _convert(frame, column, path, value=good, expected=f"a finite number from {minimum:g}")


def to_days(frame: pl.DataFrame, column: str, path: Path) -> pl.DataFrame:
    """`frame` with a column of `YYYY-MM-DD` dates read as Int64 seconds since the epoch, at midnight UTC.

    Raises:
        InputError: a value is no such date, or before 1970.
    """
    days = pl.col(column).str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    good = pl.when(days >= 0).then(days * 86_400)
    return _convert(frame, column, path, value=good, expected="a date YYYY-MM-DD, from 1970-01-01")


def require_filled(frame: pl.DataFrame, columns: list[str], path: Path) -> None:
    """Refuses an empty field in `columns`.

    Raises:
        InputError: a field is empty.
    """
    for column in columns:
        empty = frame.filter(pl.col(column).is_null() | (pl.col(column).str.strip_chars() == ""))
        if empty.height:
            raise InputError("empty field", file=path, row=empty["row"][0], column=column, expected="an id")


def locate_rows(parts: Sequence[tuple[Path, Sequence[int] | pl.Series]]) -> Callable[[int, str], InputError]:
    """For RawLog.locate, where `order` counts the events of the files behind each other.

    Args:
        parts: (file, the line of each of its events).
    """
    ends = list(accumulate(len(rows) for _, rows in parts))

    def locate(order: int, column: str) -> InputError:
        place = bisect_right(ends, order)
        file, rows = parts[place]
        return InputError("unusable value", file=file, row=int(rows[order - ends[place]]), column=column)

    return locate


def _convert(frame: pl.DataFrame, column: str, path: Path, *, value: pl.Expr, expected: str) -> pl.DataFrame:
    """`frame` with `column` replaced by `value`; the first row where `value` is null is an error."""
    converted = frame.select("row", pl.col(column).alias("found"), value.alias("value"))
    bad = converted.filter(pl.col("value").is_null())
    if bad.height:
        row, found, _ = bad.row(0)
        raise InputError("unusable value", file=path, row=row, column=column, found=found, expected=expected)
    return frame.with_columns(converted["value"].alias(column))
