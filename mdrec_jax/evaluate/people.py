"""For whom to recommend: users of the data set by their raw ids, or histories from a file; and lists of items."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from mdrec_jax.data.checks import strays, two_units
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.histories import Histories
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.data.sources.columns import find_column, id_value
from mdrec_jax.data.sources.formats import ENDINGS, Format, column_names, record_at, scan
from mdrec_jax.data.sources.reading import read_lines, require_file
from mdrec_jax.data.sources.times import bad_time, time_values, unit_of
from mdrec_jax.data.streams import plain
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.ragged import Ragged, from_lengths, spans


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


def read_users(path: Path, dataset: Dataset) -> People:
    """Users of the data set, with all of their events. Of several sequences the last with the domain's events is read.

    Args:
        path: a text file with a raw id a line (.txt), or a table with a column `user`.
        dataset: the data set that the model was trained on.

    Raises:
        InputError: a file that cannot be read, or that has no row.
    """
    names = _read_names(path, "user")
    _refuse_nobody(len(names), path)
    user = dataset.lookup_users(names)
    offsets = plain(dataset.sequence_offsets)
    chosen = _sequence_of(dataset)[np.maximum(user, 0)]
    chosen[user < 0] = -1
    needed, place = np.unique(chosen[chosen >= 0], return_inverse=True)
    history = np.full(chosen.shape, -1, np.int64)
    history[chosen >= 0] = place
    events = spans(offsets[needed], offsets[needed + 1])
    columns = {name: plain(getattr(dataset, name))[events.values] for name in ("item", "domain", "event", "time")}
    unknown = int((user < 0).sum())
    return People(names, Histories(events.offsets, **columns), history, {"unknown users": unknown} if unknown else {})


def _sequence_of(dataset: Dataset) -> Int64[np.ndarray, "U G"]:
    """For each user and domain the last sequence that has events of the domain, else the user's last one, else -1."""
    user, offsets = plain(dataset.sequence_user).astype(np.int64), plain(dataset.sequence_offsets)
    number = np.arange(len(user))
    last = np.full(dataset.num_users, -1, np.int64)
    np.maximum.at(last, user, number)
    out = np.repeat(last[:, None], dataset.num_domains, axis=1)
    sequence = np.repeat(number, np.diff(offsets))
    for domain in range(dataset.num_domains):
        mine = np.unique(sequence[plain(dataset.domain) == domain])
        best = np.full(dataset.num_users, -1, np.int64)
        np.maximum.at(best, user[mine], mine)
        out[:, domain] = np.where(best >= 0, best, last)
    return out


def read_histories(path: Path, dataset: Dataset, *, time_unit: str | None = None) -> People:
    """Histories from a table with an event a row: `user`, `item`, and `domain`, `time`, `event` where there are any.

    Events are ordered by time where there is one, else as they stand. A row with an empty item says that its user
    exists. Items that the catalogue does not have become item 1 and are counted.

    Raises:
        InputError: a file that cannot be read or has no row, a missing column, an unknown domain or event type, a bad
            time.
    """
    frame = _read_events(path, dataset, time_unit)
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
    return People(people["user"].to_list(), histories, history, {"unknown items": unknown} if unknown else {})


def read_item_list(path: Path, dataset: Dataset, domain: int) -> tuple[Int32[np.ndarray, "n"], int]:
    """(ids of the listed items that the catalogue has, how many it does not have).

    Args:
        path: a text file with a raw id a line (.txt), or a table with a column `item`.
        domain: the domain that the ids are meant in.

    Raises:
        InputError: a file that cannot be read.
    """
    raw = _read_names(path, "item")
    ids = dataset.lookup_items(raw, [dataset.manifest.domains[domain]] * len(raw))
    known = ids != UNKNOWN_ITEM
    return np.unique(ids[known]), int((~known).sum())


def _codes(names: pl.Series, known: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
    code = names.replace_strict({name: code for code, name in enumerate(known)}, return_dtype=pl.Int32)
    return code.to_numpy()


def _read_names(path: Path, column: str) -> list[str]:
    """The distinct values of a column, or the lines of a text file, in the order that they come in."""
    require_file(path, f"a list of {column}s")
    if path.name.lower().endswith(".txt"):
        return list(dict.fromkeys(line.strip() for _, line in read_lines(path)))
    kind = _format_of(path)
    names = column_names(path, kind)
    found = find_column(names, None, column, path, needed=True, flag="")
    assert found is not None
    frame = _collect(path, kind, {column: id_value(found, _schema(path, kind, [found])[found], path)}, [found])
    return frame[column].drop_nulls().unique(maintain_order=True).to_list()


def _read_events(path: Path, dataset: Dataset, time_unit: str | None) -> pl.DataFrame:
    """user, item, domain, event, and time where there is one; checked."""
    require_file(path, "a table of events")
    kind, manifest = _format_of(path), dataset.manifest
    names = column_names(path, kind)
    several = len(manifest.domains) > 1
    needed = {"user": True, "item": True, "domain": several, "event": len(manifest.event_types) > 1, "time": False}
    columns = {what: find_column(names, None, what, path, needed=must, flag="") for what, must in needed.items()}
    columns = {what: name for what, name in columns.items() if name is not None}
    schema = _schema(path, kind, list(columns.values()))
    values = {what: id_value(name, schema[name], path) for what, name in columns.items() if what != "time"}
    if "time" in columns:
        time_unit = unit_of(path, kind, columns["time"], time_unit)
        values["time"], values["fraction"] = time_values(columns["time"], schema[columns["time"]], time_unit, path)
    frame = _collect(path, kind, {"_row": pl.col("_row"), **values}, list(columns.values()))
    _refuse_nobody(len(frame), path)
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
    return frame


def _refuse_two_units(events: pl.DataFrame, path: Path, kind: Format, column: str) -> None:
    time = events["time"].to_numpy()
    stray = strays(time) if len(time) else None
    if stray is not None:
        row = int(events["_row"].to_numpy()[stray][0])
        found = record_at(path, kind, row).get(column)
        raise two_units(InputError("", file=path, row=row, column=column, found=found), time)


def _refuse_nobody(number: int, path: Path) -> None:
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
