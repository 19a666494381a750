"""Laying segments into the rows of a batch: one index for every token, then one gather a column.

All of it is whole-array work on about R * T numbers. Each column is one `take` into its place in the batch's single
buffer of memory; padding is gathered like a token (from anywhere) and wiped at the end, since it is a few per cent.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt16

from mdrec_jax.data.batching.streams import EventStream
from mdrec_jax.data.batching.windows import DomainGeometry, Windows
from mdrec_jax.data.csr import concatenated_ranges

if TYPE_CHECKING:
    from mdrec_jax.types import Batch

FIELDS = (
    "item", "domain", "event", "time", "segment", "position", "domain_position",
    "target", "target_domain", "target_time", "previous_in_target_domain", "weight",
)  # fmt: skip


class BatchBuffer:
    """The memory of one batch: a plane of R * T numbers for each field."""

    def __init__(self, rows: int, row_length: int) -> None:
        self.rows, self.row_length = rows, row_length
        self.memory = np.empty((len(FIELDS), rows * row_length), np.int32)
        self.planes: dict[str, np.ndarray] = dict(zip(FIELDS, self.memory, strict=True))

    def __getitem__(self, field: str) -> Int32[np.ndarray, " n"]:
        return self.planes[field]

    def wipe(self, slots: Int[np.ndarray, " k"]) -> None:
        """Make these slots hold nothing."""
        self.memory[:, slots] = 0
        self.planes["previous_in_target_domain"][slots] = -1

    def clear_targets(self) -> None:
        """No slot has a target."""
        for field in ("target", "target_domain", "target_time", "weight"):
            self.planes[field].fill(0)
        self.planes["previous_in_target_domain"].fill(-1)

    def batch(self, segment_user: Int32[np.ndarray, "R S"]) -> "Batch":
        """The finished batch; its arrays are views of the buffer."""
        from mdrec_jax.types import Batch  # imports jax, which preparing data does without

        shape = (self.rows, self.row_length)
        fields: dict[str, np.ndarray] = {field: plane.reshape(shape) for field, plane in self.planes.items()}
        fields["weight"] = fields["weight"].view(np.float32)  # 0 is the same bits in both types
        return Batch(**fields, segment_user=segment_user)


@dataclass(frozen=True)
class Layout:
    """K segments, from left to right and row by row, and what follows from their lengths for the n = R * T slots."""

    row: Int64[np.ndarray, " K"]
    number: Int64[np.ndarray, " K"]
    """0, 1, ... within the row."""
    slot: Int64[np.ndarray, " K"]
    """The segment's first slot: row * T + column."""
    length: Int64[np.ndarray, " K"]
    pieces: Int64[np.ndarray, " P"]
    """Lengths of the segments and, behind each row's last, of the row's empty end: they add up to R * T."""
    piece_of: Int64[np.ndarray, " K"]
    """The segment's place among the pieces."""

    def spread(self, value: Int[np.ndarray, " K"], dtype: type = np.int64) -> Int[np.ndarray, " n"]:
        """The segment's value in each of its slots, 0 in empty slots."""
        filled = np.zeros(len(self.pieces), dtype)
        filled[self.piece_of] = value
        return np.repeat(filled, self.pieces)

    def spread_into(self, value: Int[np.ndarray, " K"], out: Int32[np.ndarray, " n"]) -> None:
        """The same, into a plane of a buffer."""
        np.copyto(out, self.spread(value, np.int32))


def lay_out(count: Int[np.ndarray, " R"], length: Int[np.ndarray, " K"], row_length: int) -> Layout:
    """Segments of these lengths from left to right, `count[r]` of them in row r."""
    rows = len(count)
    row = np.repeat(np.arange(rows), count)
    place = np.arange(len(row))
    first = np.cumsum(count) - count
    length = length.astype(np.int64)
    before = np.concatenate([[0], np.cumsum(length)])  # tokens before each segment, rows unpadded
    row_start = before[first]
    piece_of = place + row
    pieces = np.empty(len(row) + rows, np.int64)
    pieces[piece_of] = length
    pieces[first + count + np.arange(rows)] = row_length - (before[first + count] - row_start)
    return Layout(
        row=row,
        number=place - first[row],
        slot=row * row_length + before[:-1] - row_start[row],
        length=length,
        pieces=pieces,
        piece_of=piece_of,
    )


def gather(column: Int[np.ndarray, " N"], index: Int64[np.ndarray, " n"], out: Int32[np.ndarray, " n"]) -> None:
    """out = column[index], whatever the column's type; indices out of range (of padding) are clipped."""
    if column.dtype == out.dtype:
        np.take(column, index, out=out, mode="clip")
    else:
        np.copyto(out, column.take(index, mode="clip"), casting="unsafe")


def gather_time(stream: EventStream, shift: int, index: Int64[np.ndarray, " n"], out: Int32[np.ndarray, " n"]) -> None:
    """Times of the events `shift` behind the index, in seconds since the data set's first event."""
    if stream.has_time:
        np.subtract(stream.time[shift:].take(index, mode="clip"), stream.time_origin, out=out, casting="unsafe")
    else:
        out.fill(0)


@dataclass(frozen=True)
class SegmentTable:
    """What a batch needs to know of each window, side by side in memory: one row a window, read at random."""

    rows: Int64[np.ndarray, "W 4"]
    """start | length | user | row of `DomainGeometry.skipped`."""

    def take(self, window: Int[np.ndarray, " K"]) -> "Segments":
        """The windows that a batch shows, one after the other."""
        start, length, user, skipped_row = self.rows.take(window, axis=0).T
        return Segments(start, length, user, skipped_row)


@dataclass(frozen=True)
class Segments:
    """The K windows that a batch shows, in the order of its segments."""

    start: Int64[np.ndarray, " K"]
    length: Int64[np.ndarray, " K"]
    user: Int64[np.ndarray, " K"]
    skipped_row: Int64[np.ndarray, " K"]


def segment_table(stream: EventStream, windows: Windows, geometry: DomainGeometry | None) -> SegmentTable:
    """The table of these windows."""
    rows = np.empty((len(windows.start), 4), np.int64)
    rows[:, 0] = windows.start
    rows[:, 1] = windows.length
    rows[:, 2] = stream.user[windows.sequence]
    rows[:, 3] = 0 if geometry is None else geometry.skipped_row
    return SegmentTable(rows)


@dataclass(frozen=True)
class Tokens:
    """What filling the inputs found out and filling the targets needs."""

    index: Int64[np.ndarray, " n"]
    """Where each slot's event stands in the stream (anywhere for empty slots)."""
    column: Int32[np.ndarray, " n"]
    empty: Int64[np.ndarray, " E"]
    """Slots without a token."""


@lru_cache(maxsize=8)
def _slots_and_columns(rows: int, row_length: int) -> tuple[Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
    slots, columns = np.arange(rows * row_length), np.tile(np.arange(row_length, dtype=np.int32), rows)
    slots.flags.writeable = columns.flags.writeable = False
    return slots, columns


def fill_inputs(
    buffer: BatchBuffer, stream: EventStream, geometry: DomainGeometry | None, layout: Layout, segments: Segments
) -> Tokens:
    """Fill everything that a token says about its own event. Empty slots hold anything: see `BatchBuffer.wipe`."""
    slots, column = _slots_and_columns(buffer.rows, buffer.row_length)
    index = layout.spread(segments.start - layout.slot)
    index += slots
    segment, position = buffer["segment"], buffer["position"]
    layout.spread_into(layout.number + 1, segment)
    layout.spread_into(layout.slot - layout.row * buffer.row_length, position)
    np.subtract(column, position, out=position)
    gather(stream.item, index, buffer["item"])
    gather_time(stream, 0, index, buffer["time"])
    if geometry is None:
        if stream.num_events > 1:
            gather(stream.event, index, buffer["event"])
        else:
            buffer["event"].fill(0)
        buffer["domain"].fill(0)
        np.copyto(buffer["domain_position"], position)
    else:
        fill_domain_facts(buffer, geometry, layout, segments, index)
    return Tokens(index=index, column=column, empty=np.flatnonzero(segment == 0))


def fill_domain_facts(
    buffer: BatchBuffer, geometry: DomainGeometry, layout: Layout, segments: Segments, index: Int64[np.ndarray, " n"]
) -> None:
    """Fill domain, event and domain_position where there are several domains."""
    facts = take_facts(geometry, 0, index)
    np.copyto(buffer["domain"], facts[:, 0])
    np.copyto(buffer["event"], facts[:, 1])
    rank = facts[:, 2]
    if segments.skipped_row.any():
        place = layout.spread(segments.skipped_row * geometry.skipped.shape[1])
        place += buffer["domain"]
        rank -= geometry.skipped.reshape(-1).take(place, mode="clip")  # 16 bits wrap around, which is what is wanted
    np.copyto(buffer["domain_position"], rank)


def take_facts(geometry: DomainGeometry, shift: int, index: Int64[np.ndarray, " n"]) -> UInt16[np.ndarray, "n 4"]:
    """The facts of the events `shift` behind the index. All four are moved at once, as one 64-bit number."""
    return geometry.facts[shift:].take(index, mode="clip").view(np.uint16).reshape(-1, 4)


def fill_targets(
    buffer: BatchBuffer,
    stream: EventStream,
    geometry: DomainGeometry | None,
    tokens: Tokens,
) -> None:
    """Fill everything that a token says about the event behind it."""
    index, previous = tokens.index, buffer["previous_in_target_domain"]
    gather(stream.target[1:], index, buffer["target"])
    gather_time(stream, 1, index, buffer["target_time"])
    buffer["weight"].view(np.float32).fill(1.0)
    if geometry is None:
        buffer["target_domain"].fill(0)
        np.copyto(previous, tokens.column)
    else:
        facts = take_facts(geometry, 1, index)
        np.copyto(buffer["target_domain"], facts[:, 0])
        gap = facts[:, 3].astype(np.int32)
        np.subtract(tokens.column, gap, out=previous)
        previous += 1
        gap -= buffer["position"]
        np.copyto(previous, -1, where=gap > 1)  # it stands before the window
    if stream.has_context:
        scored = buffer["target"] != 0
        for field in ("target", "target_domain", "target_time"):
            np.multiply(buffer[field], scored, out=buffer[field])
        np.copyto(buffer["weight"].view(np.float32), scored)
        np.copyto(previous, -1, where=~scored)


def segment_users(shape: tuple[int, int], layout: Layout, user: Int[np.ndarray, " K"]) -> Int32[np.ndarray, "R S"]:
    """The user of each segment; -1 where a row has fewer."""
    users = np.full(shape, -1, np.int32)
    users[layout.row, layout.number] = user
    return users


def slots_of(row_offsets: Int64[np.ndarray, " M+1"], rows: Int[np.ndarray, " R"]) -> tuple[np.ndarray, np.ndarray]:
    """The slots of these rows of a template, and how many each row has."""
    start = row_offsets[rows]
    count = row_offsets[rows + 1] - start
    return concatenated_ranges(start, count), count
