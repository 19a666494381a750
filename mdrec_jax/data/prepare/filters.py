"""What is left out of a log, each event counted under the reason that it went."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from mdrec_jax.data.prepare.ingest import Events
from mdrec_jax.data.prepare.ordering import full_time
from mdrec_jax.errors import InputError

type Duplicates = Literal["keep", "exact", "first", "last"]


def offsets_of(sequence: np.ndarray) -> Int64[np.ndarray, " S+1"]:
    """Where each run of equal values starts, and the end."""
    if not len(sequence):
        return np.zeros(1, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], sequence[1:] != sequence[:-1])))
    return np.append(starts, len(sequence)).astype(np.int64)


def without_duplicates(events: Events, keep: Duplicates) -> Bool[np.ndarray, " N"]:
    """Which events of a sorted log stay when an item counts once for a sequence, domain and event type.

    Args:
        events: sorted by sequence and time.
        keep: which one of equals: the "first" or the "last" in time, "exact": one of those whose full time is equal
            too, or all of them.

    Raises:
        InputError: "exact" without times.
    """
    stays = np.ones(len(events), bool)
    if keep == "keep" or not len(events):
        return stays
    columns = [events.event, events.domain, events.item, events.sequence]
    if keep == "exact":
        if events.time is None:
            raise InputError(
                "without times a copy cannot be told from an event that came again",
                column="--duplicates",
                found=keep,
                expected="keep, first or last",
            )
        columns.insert(0, full_time(events))
    place = np.lexsort(columns)  # stable: equals stay in order of time
    equal = np.ones(len(events) - 1, bool)
    for column in columns:
        sorted_column = column[place]
        equal &= sorted_column[1:] == sorted_column[:-1]
    stays[place[1:][equal] if keep in ("first", "exact") else place[:-1][equal]] = False
    return stays


def k_core(
    user: np.ndarray, item: np.ndarray, min_user: int, min_item: int, exempt: Int32[np.ndarray, " k"]
) -> tuple[Bool[np.ndarray, " N"], dict[str, int]]:
    """The largest part of a log in which every user has `min_user` events and every item `min_item`.

    Users and items are dropped in turn until nothing changes; that fixed point does not depend on the order.

    Args:
        user, item: codes of N events.
        min_user, min_item: the smallest counts; 1 drops nothing.
        exempt: item codes that are never dropped for being rare (the mark of unknown items).

    Returns:
        (mask of what stays, events dropped by reason).
    """
    where = np.arange(len(user))
    dropped = {"min_user": 0, "min_item": 0}
    before = -1
    while before != len(where) and len(where):
        before = len(where)
        for name, code, least in (("min_user", user, min_user), ("min_item", item, min_item)):
            if least <= 1 or not len(where):
                continue
            values = code[where]
            enough = np.bincount(values) >= least
            if name == "min_item":
                enough[exempt[exempt < len(enough)]] = True
            kept = enough[values]
            if not kept.all():
                where = where[kept]
                dropped[name] += int(len(kept) - len(where))
    mask = np.zeros(len(user), bool)
    mask[where] = True
    return mask, {name: count for name, count in dropped.items() if count}


def latest(offsets: Int64[np.ndarray, " S+1"], length: int) -> Bool[np.ndarray, " N"]:
    """Which events are among the last `length` of their sequence."""
    ends = np.repeat(offsets[1:], np.diff(offsets))
    return np.arange(int(offsets[-1])) >= ends - length
