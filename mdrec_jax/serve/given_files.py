"""Files that name users, items and events: which column is what, and the first row that is wrong."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.sources.columns import find_column, id_value, whole_ids
from mdrec_jax.data.sources.formats import Format, column_names, format_of, record_at, scan
from mdrec_jax.data.sources.reading import read_lines, require_file
from mdrec_jax.data.sources.times import bad_time
from mdrec_jax.errors import InputError

NO_NAMES: Mapping[str, str] = MappingProxyType({})
"""No column is named by the caller."""


def read_columns(
    names: list[str], needed: Mapping[str, bool], path: Path, dataset: Dataset, given: Mapping[str, str]
) -> dict[str, str]:
    """What each column of a file is called: as the caller says, else as `mdrec prepare` was told, else as is usual.

    Args:
        names: the file's columns.
        needed: what is looked for (user, item, domain, time, event), and whether it must be there.
        given: what -> the name that the caller gives.

    Raises:
        InputError: a column that is missing, two usual names at once, or one column for two things.
    """
    found = {}
    for what, must in needed.items():
        told, prepared = given.get(what), dataset.manifest.columns.get(what)
        if told is None and prepared in names:
            found[what] = prepared
        elif (name := find_column(names, told, what, path, needed=must)) is not None:
            found[what] = name
    for name in found.values():
        twice = [what for what, other in found.items() if other == name]
        if len(twice) > 1:
            raise InputError(
                "one column for two things", file=path, row=1, column=name, found=" and ".join(twice),
                expected="a column for each",
            )  # fmt: skip
    return found


def read_names(path: Path, what: str, dataset: Dataset, columns: Mapping[str, str] = NO_NAMES) -> list[str]:
    """The values of a column, or the lines of a text file, in the order that they come in.

    Raises:
        InputError: a file that cannot be read, without the column, or with a row that names nothing.
    """
    require_file(path, f"a list of {what}s")
    if is_text(path):
        return whole_ids(pl.Series([line for _, line in read_lines(path)], dtype=pl.String)).to_list()
    kind = format_of(path, "the list", also=", or .txt")
    found = read_columns(column_names(path, kind), {what: True}, path, dataset, columns)
    value = id_value(found[what], _schema(path, kind, [found[what]])[found[what]], path)
    frame = _collect(path, kind, {"_row": pl.col("_row"), what: value}, [found[what]])
    refuse_rows(frame.filter(pl.col(what).is_null() | (pl.col(what) == "")), path, kind, found, what, f"a {what}'s id")
    return frame[what].to_list()


def is_text(path: Path) -> bool:
    """Whether a file is a list with a line each, and no table."""
    return path.name.lower().endswith(".txt")


def read_pairs(path: Path, dataset: Dataset, columns: Mapping[str, str]) -> pl.DataFrame | None:
    """The columns user and item of a table that has both; None for another file.

    Raises:
        InputError: a file that cannot be read, or a row with only one of the two.
    """
    require_file(path, "a list of items")
    if is_text(path):
        return None
    kind = format_of(path, "the list", also=", or .txt")
    found = read_columns(column_names(path, kind), {"user": False, "item": True}, path, dataset, columns)
    if "user" not in found:
        return None
    schema = _schema(path, kind, list(found.values()))
    values = {what: id_value(name, schema[name], path) for what, name in found.items()}
    frame = _collect(path, kind, {"_row": pl.col("_row"), **values}, list(found.values()))
    for what in ("user", "item"):
        refuse_rows(
            frame.filter(pl.col(what).is_null() | (pl.col(what) == "")), path, kind, found, what, f"a {what}'s id"
        )
    return frame.select("user", "item").unique(maintain_order=True)


def refuse_empty(number: int, path: Path) -> None:
    """Raises InputError where a file has no row."""
    if not number:
        raise InputError("the file names no user", file=path, found="0 rows", expected="at least one")


def refuse_rows(
    bad: pl.DataFrame,
    path: Path,
    kind: Format,
    columns: dict[str, str],
    what: str,
    expected: str,
    time_unit: str | None = None,
) -> None:
    """Names the first of the bad rows, if there are any."""
    if not len(bad):
        return
    row = int(bad["_row"][0])
    record = record_at(path, kind, row)
    name = columns.get(what, what)
    found = record.get(name)
    problem = f"missing {what}" if found in (None, "") else f"unknown {what}"
    if what == "time" and found not in (None, ""):
        raise bad_time(path, kind, name, row, str(found), time_unit)
    found = "nothing" if found in (None, "") else found
    raise InputError(problem, file=path, row=row, column=name, found=found, expected=expected or "a time")


def _schema(path: Path, kind: Format, columns: list[str]) -> pl.Schema:
    return scan(path, kind, columns).collect_schema()


def _collect(path: Path, kind: Format, values: dict[str, pl.Expr], columns: list[str]) -> pl.DataFrame:
    return scan(path, kind, columns).select(**values).collect()
