"""The order of events: by sequence, by time, and between equal times by a rule that is part of the dataset."""

from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64, UInt64

from mdrec_jax.data.ids import combine, hash_strings
from mdrec_jax.data.prepare.ingest import Events, Vocabulary

KEY_BITS = 64
"""Sequence and time are sorted as one number of so many bits where they fit."""
TICKS = (10**9, 10**6, 10**3, 1)
"""Nanoseconds of the ticks that a clock may have."""

type Tie = Literal["seeded", "id", "file"]


def sort_events(
    events: Events,
    vocabulary: Vocabulary,
    sequence_rank: Int32[np.ndarray, " S"],
    *,
    ordered: bool,
    tie: Tie,
    seed: int,
) -> Events:
    """Events by sequence, oldest first.

    Args:
        events: in any order.
        vocabulary: their strings, from which ties are decided.
        sequence_rank: the place of each sequence by its code.
        ordered: without times, whether the source's order is the order of events; else all events of a sequence tie.
        tie: "seeded" orders events of equal time by a keyed hash of what they are, "id" by raw item id (as numbers
            where all are numbers), "file" by their place in the source.
        seed: keys the hash.

    Returns:
        The same events; for the first two rules the result does not depend on the order that they came in.
    """
    rank = sequence_rank[events.sequence].astype(np.uint64)
    if events.time is not None:
        clock = full_time(events)
    elif ordered:
        clock = events.order
    else:
        clock = np.zeros(len(events), np.int64)
    bits = np.uint64(max(1, int(clock.max()).bit_length()))
    if int(bits) + len(sequence_rank).bit_length() <= KEY_BITS:
        key = (rank << bits) | clock.astype(np.uint64)
        del rank
        place = np.argsort(key)
        key = key[place]
        equal = key[1:] == key[:-1]
    else:
        place = np.lexsort((clock, rank))
        equal = (rank[place][1:] == rank[place][:-1]) & (clock[place][1:] == clock[place][:-1])
    tied = np.zeros(len(events), bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    where = np.flatnonzero(tied)
    if len(where):
        group = np.cumsum(np.concatenate(([False], ~equal)))[where]
        keys = _tie_keys(events.take(place[where]), vocabulary, tie, seed)
        place[where] = place[where][np.lexsort((*reversed(keys), group))]
    return events.take(place)


def full_time(events: Events) -> Int64[np.ndarray, " N"]:
    """How long after the log's first second each event is, in the coarsest ticks that keep every time apart.

    Events must have times; 68 years of nanoseconds (`checks.MAX_SPAN`) fit into 63 bits.
    """
    assert events.time is not None
    clock = events.time - events.time.min()
    if events.fraction is None:
        return clock
    tick = next(tick for tick in TICKS if not (events.fraction % tick).any())
    return clock * (10**9 // tick) + events.fraction // tick


def _tie_keys(events: Events, vocabulary: Vocabulary, tie: Tie, seed: int) -> list[np.ndarray]:
    """Sort keys of tied events, the most important first."""
    if tie == "file":
        return [events.order]
    role = events.role if events.role is not None else np.zeros(len(events), np.int8)
    if tie == "id":
        return [raw_rank(vocabulary.items)[events.item], events.domain, events.event, role]
    hashed = hash_strings(vocabulary.sequences if vocabulary.sequences is not None else vocabulary.users, seed)
    state = combine(hashed[events.sequence], hash_strings(vocabulary.items, seed)[events.item])
    state = combine(state, _hash_names(vocabulary.domains, seed)[events.domain])
    state = combine(state, _hash_names(vocabulary.event_types, seed)[events.event])
    return [state, role]


def _hash_names(names: tuple[str, ...], seed: int) -> UInt64[np.ndarray, " n"]:
    return hash_strings(pl.Series(names, dtype=pl.String), seed)


def raw_rank(raw: pl.Series) -> Int64[np.ndarray, " n"]:
    """The rank of each raw id: as whole numbers where all are, else as text; equal ids share a rank."""
    number = raw.cast(pl.Int64, strict=False)
    return (raw if number.null_count() else number).rank("dense").to_numpy().astype(np.int64)
