"""For whom to recommend: histories from a file; and what else a file may name people or items by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from mdrec_jax.data.checks import strays, two_units
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.histories import Histories
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.data.sources.columns import find_column, id_value, whole_ids
from mdrec_jax.data.sources.formats import ENDINGS, Format, column_names, record_at, scan
from mdrec_jax.data.sources.reading import read_lines, require_file
from mdrec_jax.data.sources.times import LATEST_SECOND, bad_time, time_values, unit_of
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.ragged import Ragged, from_lengths

NO_NAMES: Mapping[str, str] = MappingProxyType({})
"""No column is named by the caller."""


@dataclass(frozen=True)
class People:
    """P people, G domains, H histories."""

    names: list[str]
    """As the file has them."""
    histories: Histories
    """Item 1 stands for what the catalogue does not have."""
    history: Int64[np.ndarray, "P G"]
    """The history to read when a domain is asked about; -1 where the person has none."""
    counts: dict[str, int]
    """What was unknown, by reason."""


def read_histories(
    path: Path,
    dataset: Dataset,
    *,
    time_unit: str | None = None,
    columns: Mapping[str, str] = NO_NAMES,
    latest: int | None = None,
) -> People:
    """Histories from a table with an event a row: `user`, `item`, and `domain`, `time`, `event` where there are any.

    Events are ordered by time where there is one, else as they stand. A row with an empty item says that its user
    exists. Items that the catalogue does not have become item 1 and are counted.

    Args:
        time_unit: s, ms or iso; None = seconds.
        columns: the names of columns that the caller gives (see `read_columns`).
        latest: no event may be later, in seconds since the epoch; None = no limit but the model's.

    Raises:
        InputError: a file that cannot be read or has no row, a missing column, an unknown domain or event type, a bad
            time.
    """
    frame = _read_events(path, dataset, time_unit, columns, latest)
    named = frame.with_columns(pl.col("item").fill_null("")).filter(pl.col("item") != "")
    people = frame.select("user").unique(maintain_order=True).with_row_index("person")
    named = named.join(people, on="user", how="left", maintain_order="left")
    clock = ["time", "fraction"] if "time" in named.columns else []
    named = named.sort("person", *clock, maintain_order=True)
    item = dataset.lookup_items(named["item"].to_list(), named["domain"].to_list())
    domains, kinds = dataset.manifest.domains, dataset.manifest.event_types
    lengths = np.bincount(named["person"].to_numpy(), minlength=len(people))
    histories = Histories(
        offsets=from_lengths(lengths),
        item=item,
        domain=_codes(named["domain"], domains),
        event=_codes(named["event"], kinds),
        time=named["time"].to_numpy() if "time" in named.columns else None,
    )
    unknown = int((item == UNKNOWN_ITEM).sum())
    history = np.repeat(np.arange(len(people))[:, None], len(domains), axis=1)
    return People(people["user"].to_list(), histories, history, {"unknown items": unknown})


def _codes(names: pl.Series, known: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
    code = names.replace_strict({name: code for code, name in enumerate(known)}, return_dtype=pl.Int32)
    return code.to_numpy()


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
    kind = _format_of(path)
    found = read_columns(column_names(path, kind), {what: True}, path, dataset, columns)
    value = id_value(found[what], _schema(path, kind, [found[what]])[found[what]], path)
    frame = _collect(path, kind, {"_row": pl.col("_row"), what: value}, [found[what]])
    _refuse(frame.filter(pl.col(what).is_null() | (pl.col(what) == "")), path, kind, found, what, f"a {what}'s id")
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
    kind = _format_of(path)
    found = read_columns(column_names(path, kind), {"user": False, "item": True}, path, dataset, columns)
    if "user" not in found:
        return None
    schema = _schema(path, kind, list(found.values()))
    values = {what: id_value(name, schema[name], path) for what, name in found.items()}
    frame = _collect(path, kind, {"_row": pl.col("_row"), **values}, list(found.values()))
    for what in ("user", "item"):
        _refuse(frame.filter(pl.col(what).is_null() | (pl.col(what) == "")), path, kind, found, what, f"a {what}'s id")
    return frame.select("user", "item").unique(maintain_order=True)


def _read_events(
    path: Path, dataset: Dataset, time_unit: str | None, given: Mapping[str, str], latest: int | None
) -> pl.DataFrame:
    """user, item, domain, event, and time where there is one; checked."""
    require_file(path, "a table of events")
    kind, manifest = _format_of(path), dataset.manifest
    names = column_names(path, kind)
    several = len(manifest.domains) > 1
    needed = {"user": True, "item": True, "domain": several, "event": len(manifest.event_types) > 1, "time": False}
    columns = read_columns(names, needed, path, dataset, given)
    schema = _schema(path, kind, list(columns.values()))
    values = {what: id_value(name, schema[name], path) for what, name in columns.items() if what != "time"}
    if "time" in columns:
        time_unit = unit_of(path, kind, columns["time"], time_unit)
        values["time"], values["fraction"] = time_values(columns["time"], schema[columns["time"]], time_unit, path)
    frame = _collect(path, kind, {"_row": pl.col("_row"), **values}, list(columns.values()))
    refuse_nobody(len(frame), path)
    for what, known in (("domain", manifest.domains), ("event", manifest.event_types)):
        if what not in columns:
            frame = frame.with_columns(pl.lit(known[0]).alias(what))
    event = pl.col("item").is_not_null() & (pl.col("item") != "")
    _refuse(frame.filter(pl.col("user").is_null() | (pl.col("user") == "")), path, kind, columns, "user", "a user's id")
    for what, known in (("domain", manifest.domains), ("event", manifest.event_types)):
        strange = frame.filter(event & ~pl.col(what).is_in(list(known)).fill_null(False))
        _refuse(strange, path, kind, columns, what, "one of " + ", ".join(known))
    if "time" in columns:
        late = frame.filter(event & (pl.col("time").is_null() | (pl.col("time") < 0)))
        _refuse(late, path, kind, columns, "time", "", time_unit)
        _refuse_two_units(frame.filter(event), path, kind, columns["time"])
        _refuse_far(frame.filter(event), path, kind, columns["time"], dataset, latest)
    return frame


def _refuse_two_units(events: pl.DataFrame, path: Path, kind: Format, column: str) -> None:
    time = events["time"].to_numpy()
    stray = strays(time) if len(time) else None
    if stray is not None:
        row = int(events["_row"].to_numpy()[stray][0])
        found = record_at(path, kind, row).get(column)
        raise two_units(InputError("", file=path, row=row, column=column, found=found), time)


def _refuse_far(
    events: pl.DataFrame, path: Path, kind: Format, column: str, dataset: Dataset, latest: int | None
) -> None:
    """Names the first event that is later than `latest`, or whose time a model of the data set cannot read."""
    origin, limit = int(dataset.manifest.time_origin), np.iinfo(np.int32)
    ends = (origin + int(limit.min), origin + int(limit.max)) if dataset.manifest.has_time else (0, LATEST_SECOND)
    last = ends[1] if latest is None else min(latest, ends[1])
    bad = events.filter(~pl.col("time").is_between(ends[0], last))
    if len(bad):
        row = int(bad["_row"][0])
        raise InputError(
            "a time that no event of these people can have",
            file=path,
            row=row,
            column=column,
            found=f"{record_at(path, kind, row).get(column)} ({_date(int(bad['time'][0]))})",
            expected=f"between {_date(ends[0])} and {_date(last)}",
            hint="check the unit of the times: --time-unit",
        )


def _date(seconds: int) -> str:
    return str(np.datetime64(seconds, "s"))


def refuse_nobody(number: int, path: Path) -> None:
    """Raises InputError where a file has no row."""
    if not number:
        raise InputError("the file names nobody", file=path, found="0 rows", expected="at least one")


def _refuse(
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


def _format_of(path: Path) -> Format:
    for kind, endings in ENDINGS.items():
        if path.name.lower().endswith(endings):
            return kind  # pyright: ignore[reportReturnType]
    expected = " ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise InputError("unknown format", file=path, found=path.name, expected=f"a name ending in {expected}, or .txt")


def known_items(histories: Histories) -> Ragged:
    """The items of every history that the catalogue has, sorted, without repetition."""
    every = Ragged(np.asarray(histories.offsets, np.int64), np.asarray(histories.item))
    return every.keep(every.values > UNKNOWN_ITEM).unique()
