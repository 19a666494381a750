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
