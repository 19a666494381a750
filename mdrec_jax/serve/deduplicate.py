"""Which events of a file are new to users of whom something was read already."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.ids import combine

NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Overlap:
    """N events of P users' histories. `known` were read already; `late` were not, and are older than what was."""

    known: Bool[np.ndarray, "N"]
    late: Bool[np.ndarray, "N"]


def event_digests(histories: Histories) -> Csr:
    """64 bits of each event: item, domain, behaviour type and, where there is one, second."""

    def column(values: Int[np.ndarray, "N"] | None, otherwise: int) -> UInt64[np.ndarray, "N"]:
        if values is None:
            return np.full(len(histories.item), otherwise).astype(np.uint64)
        return np.asarray(values).astype(np.uint64)

    what = column(histories.domain, 0) << np.uint64(32) | column(histories.event, 0) << np.uint64(48)
    digest = combine(column(histories.item, 0) | what, column(histories.time, NO_TIME))
    return Csr(np.asarray(histories.offsets, np.int64), digest.view(np.int64))


def find_overlap(read: Csr, last: Int64[np.ndarray, "P"], histories: Histories) -> Overlap:
    """Compares histories, history p being of user p, with what was read of them.

    With times an event is known if it was read: of equal ones (the same item in the same second) as many as were. What
    is not, and is older than the user's last event, is late. Without times nothing tells an event that is sent again
    from one that happens again: known are the first events of a history that are also the user's last ones, as many
    as there are.

    Args:
        read: digests of what was read of each user, in that order.
        last: the time of each user's last event; the least int64 where there is none.
        histories: their events, in the order of their times.
    """
    digests = event_digests(histories)
    if histories.time is None:
        return Overlap(_repeated(read, digests), np.zeros(len(digests.values), bool))
    known = _among(read, digests)
    late = ~known & (np.asarray(histories.time) < last[digests.owner])
    return Overlap(known, late)


def _among(read: Csr, digests: Csr) -> Bool[np.ndarray, "N"]:
    """Whether each digest, or as many equal ones as stand before it and itself, are among the user's."""
    before = len(read.values)
    owner = np.concatenate([read.owner, digests.owner])
    value = np.concatenate([read.values, digests.values])
    order = np.lexsort((value, owner))  # stable: what was read stands first among equal ones
    owner, value = owner[order], value[order]
    first = np.ones(len(order), bool)
    first[1:] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    group = np.cumsum(first) - 1
    old = np.bincount(group, order < before).astype(np.int64)
    place = np.arange(len(order)) - np.flatnonzero(first)[group]
    known = np.empty(len(order), bool)
    known[order] = place < 2 * old[group]  # old ones, then as many new ones
    return known[before:]


def _repeated(read: Csr, digests: Csr) -> Bool[np.ndarray, "N"]:
    known = np.zeros(len(digests.values), bool)
    for user in np.flatnonzero(read.lengths > 0).tolist():
        old = read.values[read.offsets[user] : read.offsets[user + 1]]
        new = digests.values[digests.offsets[user] : digests.offsets[user + 1]]
        ends = np.flatnonzero(new[: len(old)] == old[-1])[::-1] + 1
        longest = next((end for end in ends.tolist() if np.array_equal(old[-end:], new[:end])), 0)
        known[digests.offsets[user] : digests.offsets[user] + longest] = True
    return known


def without(histories: Histories, left_out: Bool[np.ndarray, "N"]) -> Histories:
    """The histories with some of their events left out."""
    events = Csr(np.asarray(histories.offsets, np.int64), np.arange(len(left_out))).keep(~left_out)
    columns = {name: getattr(histories, name) for name in ("item", "domain", "event", "time")}
    chosen = {name: None if x is None else np.asarray(x)[events.values] for name, x in columns.items()}
    return replace(histories, offsets=events.offsets, **chosen)


def following(before: Histories, after: Histories) -> Histories:
    """History p of `before` with history p of `after` behind it. Times stay where all events have one."""
    both = before, after
    owner = np.concatenate([np.repeat(np.arange(len(one.offsets) - 1), np.diff(one.offsets)) for one in both])
    order = np.argsort(owner, kind="stable")

    def column(name: str) -> Int[np.ndarray, "N"]:
        parts = [(getattr(one, name), len(one.item)) for one in both]
        return np.concatenate([np.zeros(number, np.int64) if x is None else x for x, number in parts])[order]

    return Histories(
        offsets=from_lengths(np.bincount(owner, minlength=len(before.offsets) - 1)),
        item=column("item"),
        domain=column("domain"),
        event=column("event"),
        time=None if any(one.time is None and len(one.item) for one in both) else column("time"),
    )


def in_time(histories: Histories) -> Histories:
    """The same with each history in the order of its times; as it stands where there are none."""
    if histories.time is None:
        return histories
    owner = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    order = np.lexsort((histories.time, owner))  # stable
    columns = {name: getattr(histories, name) for name in ("item", "domain", "event", "time")}
    return replace(histories, **{name: None if x is None else np.asarray(x)[order] for name, x in columns.items()})
