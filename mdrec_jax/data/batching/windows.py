"""Windows: the pieces of histories that become segments of a row.

A window of n tokens is n + 1 neighbouring events of one sequence: the first n are read, the target of each token is
the event behind it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt16, UInt64

from mdrec_jax.data.batching.streams import EventStream
from mdrec_jax.data.csr import concatenated_ranges

MAX_LENGTH = 65_000
"""The longest window: distances and counts inside one are kept in 16 bits."""


@dataclass(frozen=True)
class Windows:
    """W windows over a stream."""

    sequence: Int32[np.ndarray, " W"]
    """Which of the stream's sequences it is cut from."""
    start: Int64[np.ndarray, " W"]
    """Where its first token stands in the stream's columns."""
    length: Int32[np.ndarray, " W"]
    """Tokens."""


@dataclass(frozen=True)
class DomainGeometry:
    """Where the events of a stream stand among the events of their own domain and sequence.

    `facts` holds four 16-bit numbers an event, moved as one since a batch reads them at random:
    its domain; its event type; its rank = how many events of its domain stand before it in its sequence, modulo
    2^16; its gap = how far back the last of them is, 65,535 where there is none or it is further than any window.
    """

    facts: UInt64[np.ndarray, " N"]
    """The four as one number; `.view(np.uint16)` takes them apart, in this order."""
    skipped: UInt16[np.ndarray, "C G"]
    """Events of each domain before the start of a window that does not begin its sequence, modulo 2^16; row 0 is 0.
    Rank less this is the rank within the window."""
    skipped_row: Int32[np.ndarray, " W"]
    """The window's row of `skipped`; 0 where the window begins its sequence."""


def cut_windows(stream: EventStream, *, window: Literal["last", "all"], max_length: int) -> Windows:
    """Windows of at most `max_length` tokens.

    "last": one a sequence, its last tokens. "all": as many as score every target of the sequence exactly once. Windows
    without a target are left out.
    """
    tokens = stream.length - 1
    if window == "last":
        length = np.minimum(tokens, max_length)
        return Windows(
            sequence=np.arange(len(tokens), dtype=np.int32),
            start=stream.start + tokens - length,
            length=length.astype(np.int32),
        )
    count = np.maximum(1, -(-tokens // max_length))
    sequence = np.repeat(np.arange(len(tokens)), count)
    number = concatenated_ranges(np.zeros(len(count), np.int64), count)
    first = number * max_length
    cut = Windows(
        sequence=sequence.astype(np.int32),
        start=stream.start[sequence] + first,
        length=np.minimum(tokens[sequence] - first, max_length).astype(np.int32),
    )
    return _take(cut, np.flatnonzero(count_targets(stream, cut)))


def count_targets(stream: EventStream, windows: Windows) -> Int64[np.ndarray, " W"]:
    """How many targets each window scores."""
    if not stream.has_context:
        return windows.length.astype(np.int64)
    before = np.concatenate([[0], np.cumsum(stream.target != 0)])
    return before[windows.start + windows.length + 1] - before[windows.start + 1]


def domain_geometry(stream: EventStream, windows: Windows) -> DomainGeometry | None:
    """Computed once, one pass a domain; None where there is one domain and a token's position says it all."""
    if stream.num_domains == 1:
        return None
    facts = np.zeros((len(stream.item), 4), np.uint16)
    facts[:, 0], facts[:, 1], facts[:, 3] = stream.domain, stream.event, 0xFFFF
    late = np.flatnonzero(windows.start > stream.start[windows.sequence])
    skipped = np.zeros((len(late) + 1, stream.num_domains), np.uint16)
    skipped_row = np.zeros(len(windows.start), np.int32)
    skipped_row[late] = np.arange(1, len(late) + 1)
    for domain in range(stream.num_domains):
        places = np.flatnonzero(stream.domain == domain)
        low = np.searchsorted(places, stream.start)
        count = np.searchsorted(places, stream.start + stream.length) - low
        mine = places[concatenated_ranges(low, count)]
        rank = concatenated_ranges(np.zeros(len(count), np.int64), count)
        gap = np.minimum(np.diff(mine, prepend=0), 0xFFFF)
        facts[mine, 2] = rank & 0xFFFF
        facts[mine, 3] = np.where(rank == 0, 0xFFFF, gap)
        before = np.searchsorted(places, windows.start[late]) - low[windows.sequence[late]]
        skipped[1:, domain] = before & 0xFFFF
    return DomainGeometry(facts=facts.view(np.uint64).reshape(-1), skipped=skipped, skipped_row=skipped_row)


def _take(windows: Windows, index: Int[np.ndarray, " K"]) -> Windows:
    return Windows(
        sequence=windows.sequence[index],
        start=windows.start[index],
        length=windows.length[index],
    )
