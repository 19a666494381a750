"""Packing: which windows share a row.

Segments of a row do not see each other, so what matters of a window is its length alone. The rows are therefore
packed once, from the histogram of lengths (Krell et al. 2021, arXiv 2107.02027, section 4): the result is a
*template* of rows whose slots have lengths. An epoch only decides which windows of a length take which slots of that
length, and in which order the rows come: shuffling, no packing. Every epoch has the same number of rows.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32, Int64


@dataclass(frozen=True)
class Template:
    """M rows with n slots in all, before it is known which window takes which slot."""

    row_offsets: Int64[np.ndarray, " M+1"]
    """Slots row_offsets[r] .. row_offsets[r+1] stand in row r, from left to right."""
    slot_rank: Int32[np.ndarray, " n"]
    """The slot takes the slot_rank-th longest of the windows."""
    segments: int
    """The most slots that one row has."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.row_offsets) - 1


@dataclass(frozen=True)
class Pool:
    """The windows that epochs draw from, longest first."""

    order: Int32[np.ndarray, " W"]
    """Window numbers by falling length."""
    class_offsets: Int64[np.ndarray, " C+1"]
    """Windows order[class_offsets[c]:class_offsets[c+1]] have the same length."""


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: windows by falling length (the k-th takes the slot of rank k), and the order of the rows."""

    draw: Int32[np.ndarray, " n"]
    row_order: Int64[np.ndarray, " M"]


def make_pool(length: Int[np.ndarray, " W"]) -> Pool:
    """Windows sorted by falling length."""
    order = np.argsort(-length.astype(np.int16 if length.max() < 2**15 else np.int64), kind="stable")
    changes = np.flatnonzero(np.diff(length[order])) + 1
    return Pool(
        order=order.astype(np.int32),
        class_offsets=np.concatenate([[0], changes, [len(order)]]).astype(np.int64),
    )


def slot_lengths(pool: Pool, length: Int[np.ndarray, " W"]) -> Int64[np.ndarray, "C 2"]:
    """(length, number of slots) of the windows, longest first."""
    end = pool.class_offsets[1:]
    return np.stack([length[pool.order[end - 1]], np.diff(end, prepend=0)], axis=1)


def pack(lengths: Int64[np.ndarray, "C 2"], row_length: int) -> Template:
    """Fill rows of `row_length` tokens, the longest first, then whatever is longest among what still fits.

    Works on (length, count) pairs, so its cost depends on the number of different lengths alone: 1 ms for 400,000
    or for 400 million windows. Reaches 99.9 % on lengths like those of Amazon Beauty; what is lost where most
    windows are nearly as long as a row is lost by any packing.

    Args:
        lengths: pairs (length, count), any order.
    """
    left = {int(size): int(count) for size, count in lengths if count > 0}
    sizes = sorted(left)
    slots: list[np.ndarray] = []
    row_counts: list[np.ndarray] = []
    while sizes:
        pattern = _fill_row(sizes, left, row_length)
        times = min(left[size] // count for size, count in pattern)
        row = np.repeat([size for size, _ in pattern], [count for _, count in pattern])
        slots.append(np.tile(row, times))
        row_counts.append(np.full(times, len(row)))
        for size, count in pattern:
            left[size] -= count * times
        sizes = [size for size in sizes if left[size]]
    length, row_count = np.concatenate(slots), np.concatenate(row_counts)
    rank = np.empty(len(length), np.int32)
    rank[np.argsort(-length, kind="stable")] = np.arange(len(length), dtype=np.int32)
    return Template(
        row_offsets=np.concatenate([[0], np.cumsum(row_count)]).astype(np.int64),
        slot_rank=rank,
        segments=int(row_count.max()),
    )


def _fill_row(sizes: list[int], left: dict[int, int], room: int) -> list[tuple[int, int]]:
    """One row as (length, count) pairs, longest first; `sizes` are the lengths still there, rising."""
    pattern: list[tuple[int, int]] = []
    place = len(sizes) - 1
    while place >= 0 and room:
        size = sizes[place]
        count = min(left[size], room // size)
        if count:
            pattern.append((size, count))
            room -= count * size
        place = min(place - 1, bisect_right(sizes, room) - 1)
    return pattern


def plan_epoch(pool: Pool, template: Template, seed: int, epoch: int) -> EpochPlan:
    """The epoch's plan, a pure function of its arguments: 10 ms for 400,000 windows.

    Windows of one length are shuffled among each other, which is all the freedom the template leaves; rows are
    shuffled as a whole.
    """
    rng = np.random.default_rng((seed, epoch))
    order = pool.order.copy()
    for begin, end in zip(pool.class_offsets[:-1].tolist(), pool.class_offsets[1:].tolist(), strict=True):
        rng.shuffle(order[begin:end])
    return EpochPlan(draw=order, row_order=rng.permutation(template.rows))
