"""Which column of a table is what, and how its values become ids and ratings; times: see `times`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

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


_WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
"""A whole number as floats are written."""


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
    """A column of ids as text. A whole number is one id however it is written: 13 and 13.0, in every format.

    Null where a number is none (NaN, as some tables write nothing) or is not whole.

    Raises:
        InputError: the column's type is neither text nor numbers.
    """
    value = pl.col(column)
    if kind.is_integer():
        return value.cast(pl.String)
    if kind.is_float():
        whole = value.is_finite() & (value == value.floor()) & (value.abs() < 2**53)
        return pl.when(whole).then(value.cast(pl.Int64, strict=False)).cast(pl.String)
    if kind.is_decimal() or kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
        return value.cast(pl.String).map_batches(whole_ids, return_dtype=pl.String(), is_elementwise=True)
    raise InputError("ids of a wrong type", file=file, column=column, found=kind, expected="text or whole numbers")


def whole_ids(text: pl.Series) -> pl.Series:
    """Ids as text; whole numbers without a point."""
    # looking for the two characters is much quicker than replacing them, and most ids have no point
    return text.str.replace(_WHOLE, "${1}") if text.str.contains(".0", literal=True).any() else text


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
