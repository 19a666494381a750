"""Files that name users and items, to list or to leave out: which column is what, and the first row that is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from jaxtyping import Int32

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
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
    if _is_text(path):
        return whole_ids(pl.Series([line for _, line in read_lines(path)], dtype=pl.String)).to_list()
    return _read_table(path, {what: True}, dataset, columns)[what].to_list()


def _is_text(path: Path) -> bool:
    """Whether a file is a list with a line each, and no table."""
    return path.name.lower().endswith(".txt")


def _read_table(path: Path, needed: Mapping[str, bool], dataset: Dataset, columns: Mapping[str, str]) -> pl.DataFrame:
    """The columns of a table as text, as `read_columns` finds them. Raises InputError for a row without one of them."""
    kind = format_of(path, "the list", also=", or .txt")
    found = read_columns(column_names(path, kind), needed, path, dataset, columns)
    lazy = scan(path, kind, list(found.values()))
    schema = lazy.collect_schema()
    values = {what: id_value(name, schema[name], path) for what, name in found.items()}
    frame = lazy.select(_row=pl.col("_row"), **values).collect()
    for what in found:
        bad = frame.filter(pl.col(what).is_null() | (pl.col(what) == ""))
        refuse_rows(bad, path, kind, found, what, f"a {what}'s id")
    return frame


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


@dataclass(frozen=True)
class ItemList:
    """What a file lists, as it names it. `users` is None where the items are meant for all."""

    items: list[str]
    users: list[str] | None

    def ids(self, dataset: Dataset, domain: int) -> tuple[Int32[np.ndarray, "n"], int]:
        """(ids of the items in a domain, UNKNOWN_ITEM where the catalogue has none; how many different ones it does
        not have)."""
        ids = dataset.lookup_items(self.items, [dataset.manifest.domains[domain]] * len(self.items))
        unknown = {item for item, number in zip(self.items, ids.tolist(), strict=True) if number == UNKNOWN_ITEM}
        return ids, len(unknown)

    def by_user(self, names: list[str], ids: Int32[np.ndarray, "n"]) -> Csr:
        """Each user's items, ascending; none for users that the file does not name."""
        assert self.users is not None
        place = {name: at for at, name in enumerate(names)}
        number = np.array([place.get(user, -1) for user in self.users], np.int64)
        kept = (number >= 0) & (ids != UNKNOWN_ITEM)
        order = np.argsort(number[kept], kind="stable")
        lengths = np.bincount(number[kept], minlength=len(names))
        return Csr(from_lengths(lengths), ids[kept][order]).unique()

    def not_among(self, names: list[str]) -> int:
        """How many users the file names that are not among these."""
        return len(set(self.users or ()) - set(names))


def read_item_list(path: Path, dataset: Dataset, columns: Mapping[str, str] = NO_NAMES) -> ItemList:
    """The items of a file.

    Args:
        path: a text file with a raw id a line (.txt), or a table with a column `item`; with a column `user` beside it
            each row is about that user alone.
        columns: the names of columns that the caller gives (see `read_columns`).

    Raises:
        InputError: a file that cannot be read, or a row with only one of the two.
    """
    require_file(path, "a list of items")
    if not _is_text(path):
        frame = _read_table(path, {"user": False, "item": True}, dataset, columns)
        if "user" in frame.columns:
            pairs = frame.select("user", "item").unique(maintain_order=True)
            return ItemList(pairs["item"].to_list(), pairs["user"].to_list())
        return ItemList(list(dict.fromkeys(frame["item"])), None)
    return ItemList(list(dict.fromkeys(read_names(path, "item", dataset, columns))), None)
