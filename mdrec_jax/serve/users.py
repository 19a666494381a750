"""Users to recommend to, with their histories: from a file of events, or from the data set by their raw ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.batching.streams import plain
from mdrec_jax.data.csr import Csr, from_lengths, spans
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.errors import InputError
from mdrec_jax.serve.deduplicate import NO_TIME, event_digests, find_overlap, following, in_time, without
from mdrec_jax.serve.event_rows import read_events
from mdrec_jax.serve.given_files import NO_NAMES, read_names, refuse_empty


@dataclass(frozen=True)
class Users:
    """P users, G domains, H histories."""

    names: list[str]
    """As the file has them."""
    histories: Histories
    """Item 1 stands for what the catalogue does not have."""
    history: Int64[np.ndarray, "P G"]
    """The history to read for recommendations in a domain; -1 where the user has none."""
    counts: dict[str, int]
    """What was unknown or left out, by reason."""


def read_histories(
    path: Path,
    dataset: Dataset,
    *,
    time_unit: str | None = None,
    columns: Mapping[str, str] = NO_NAMES,
    latest: int | None = None,
    skip_bad_rows: bool = False,
) -> Users:
    """Histories from a table with an event a row: `user`, `item`, and `domain`, `time`, `event` where there are any.

    Events are ordered by time where there is one, else as they stand. A row with an empty item says that its user
    exists. Items that the catalogue does not have become item 1 and are counted.

    Args:
        time_unit: s, ms or iso; None = seconds.
        columns: the names of columns that the caller gives (see `given_files.read_columns`).
        latest: no event may be later, in seconds since the epoch; None = no limit but the model's.
        skip_bad_rows: rows that cannot be used are left out and counted; else the first one is refused.

    Raises:
        InputError: a file that cannot be read or has no row, a missing column, an unknown domain or event type, a bad
            time.
    """
    bad_rows = BadRows() if skip_bad_rows else None
    frame = read_events(path, dataset, time_unit, columns, latest, bad_rows)
    named = frame.with_columns(pl.col("item").fill_null("")).filter(pl.col("item") != "")
    users = frame.select("user").unique(maintain_order=True).with_row_index("number")
    named = named.join(users, on="user", how="left", maintain_order="left")
    clock = ["time", "fraction"] if "time" in named.columns else []
    named = named.sort("number", *clock, maintain_order=True)
    item = dataset.lookup_items(named["item"].to_list(), named["domain"].to_list())
    domains, kinds = dataset.manifest.domains, dataset.manifest.event_types
    lengths = np.bincount(named["number"].to_numpy(), minlength=len(users))
    histories = Histories(
        offsets=from_lengths(lengths),
        item=item,
        domain=_codes(named["domain"], domains),
        event=_codes(named["event"], kinds),
        time=named["time"].to_numpy() if "time" in named.columns else None,
    )
    unknown = int((item == UNKNOWN_ITEM).sum())
    history = np.repeat(np.arange(len(users))[:, None], len(domains), axis=1)
    left_out = bad_rows.by_reason() if bad_rows is not None else {}
    return Users(users["user"].to_list(), histories, history, left_out | {"unknown items": unknown})


def _codes(names: pl.Series, known: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
    code = names.replace_strict({name: code for code, name in enumerate(known)}, return_dtype=pl.Int32)
    return code.to_numpy()


def known_items(histories: Histories) -> Csr:
    """The items of every history that the catalogue has, sorted, without repetition."""
    every = Csr(np.asarray(histories.offsets, np.int64), np.asarray(histories.item))
    return every.keep(every.values > UNKNOWN_ITEM).unique()


ALREADY_KNOWN = "events already known"
"""Events of a file that were read before."""


def read_users(path: Path, dataset: Dataset, columns: Mapping[str, str] = NO_NAMES) -> Users:
    """Users of the data set, with all of their events. Of several sequences the last with the domain's events is read.

    Args:
        path: a text file with a raw id a line (.txt), or a table with a column `user`.
        dataset: the data set that the model was trained on.
        columns: the names of columns that the caller gives (see `given_files.read_columns`).

    Raises:
        InputError: a file that cannot be read, or that has no row.
    """
    every = read_names(path, "user", dataset, columns)
    names = list(dict.fromkeys(every))
    refuse_empty(len(names), path)
    user = dataset.lookup_users(names)
    offsets = plain(dataset.sequence_offsets)
    chosen = _sequence_of(dataset)[np.maximum(user, 0)]
    chosen[user < 0] = -1
    needed, place = np.unique(chosen[chosen >= 0], return_inverse=True)
    history = np.full(chosen.shape, -1, np.int64)
    history[chosen >= 0] = place
    events = spans(offsets[needed], offsets[needed + 1])
    values = {name: plain(getattr(dataset, name))[events.values] for name in ("item", "domain", "event", "time")}
    counts = {"rows that name a user again": len(every) - len(names), "unknown users": int((user < 0).sum())}
    return Users(names, Histories(events.offsets, **values), history, counts)


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


def known_histories(dataset: Dataset, names: Sequence[str | None]) -> Histories:
    """History p is what the data set has of user `names[p]`, in all of its roles; empty for others. Of several
    sequences of a user the last."""
    user = dataset.lookup_users(names)
    number, offsets = np.arange(dataset.num_sequences), plain(dataset.sequence_offsets).astype(np.int64)
    last = np.full(dataset.num_users + 1, -1, np.int64)  # the place behind the last is that of who is not there
    np.maximum.at(last, plain(dataset.sequence_user), number)
    sequence = last[user]
    there = sequence >= 0
    events = spans(np.where(there, offsets[sequence], 0), np.where(there, offsets[sequence + 1], 0))
    columns = {name: plain(getattr(dataset, name))[events.values] for name in ("item", "domain", "event")}
    time = plain(dataset.time)[events.values] if dataset.manifest.has_time else None
    return Histories(events.offsets, **columns, time=time)


def after_known(users: Users, dataset: Dataset, path: Path) -> Users:
    """The same users with their events in the data set before those of the file; events in both count once.

    Args:
        users: as `read_histories` reads them.
        path: the file, for errors.

    Raises:
        InputError: the data set has times and the file has none.
    """
    before, after = known_histories(dataset, users.names), users.histories
    if len(before.item) and before.time is not None and len(after.item) and after.time is None:
        raise InputError(
            "events without times cannot follow events with times", file=path, column="time", expected="a column time"
        )
    nothing = np.full(len(users.names), NO_TIME)
    known = find_overlap(event_digests(before), nothing, after).known
    histories = in_time(following(before, without(after, known)))
    counts = {"users whose events in the data set were read first": int((np.diff(before.offsets) > 0).sum())}
    return replace(users, histories=histories, counts=users.counts | counts | {ALREADY_KNOWN: int(known.sum())})
