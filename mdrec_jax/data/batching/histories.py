"""Histories that ask for something: evaluation queries and recommendations, packed like training sequences.

A *segment* is one visible history; a *query* asks it for the items of one domain. Queries whose history is the same
share a segment where nothing that a batch holds once a token (the domain asked for, the query's time) tells them
apart. A history without events becomes a single token, `UNKNOWN_ITEM`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.layout import (
    BatchBuffer,
    Layout,
    Tokens,
    fill_inputs,
    lay_out,
    segment_table,
    segment_users,
    slots_of,
)
from mdrec_jax.data.batching.packing_plan import make_pool, pack, slot_lengths
from mdrec_jax.data.batching.streams import EventStream, check_times
from mdrec_jax.data.batching.windows import Windows, domain_geometry
from mdrec_jax.data.csr import concatenated_ranges
from mdrec_jax.data.ids import UNKNOWN_ITEM

if TYPE_CHECKING:
    from mdrec_jax.types import Batch, DatasetSpec, Queries


@dataclass(frozen=True)
class Questions:
    """Q queries. Query q asks sequence `sequence[q]` of a stream, of which it sees the first `visible[q]` events."""

    sequence: Int[np.ndarray, " Q"]
    visible: Int[np.ndarray, " Q"]
    user: Int[np.ndarray, " Q"]
    domain: Int[np.ndarray, " Q"]
    target: Int[np.ndarray, " Q"]
    """The item to be found; 0 when recommending."""
    time: Int64[np.ndarray, " Q"] | None
    """Seconds since the epoch that the model may be told; None where it is told nothing."""


class QueryBatches:
    """A random-access source of (Batch, Queries): each query of a list once, in batches of static shape.

    Args:
        stream: what may be seen.
        questions: what is asked.
        config: `row_length`, `max_length` and `segments` are used; a history is cut to its last `max_length` events.
        rows: R.

    Attributes:
        num_queries: Q.
        slots: places for queries in a batch; those behind a batch's last query are empty (user -1).
        segments: S.
        empty_histories: queries that saw no event at all.
    """

    def __init__(self, stream: EventStream, questions: Questions, config: BatchingConfig, *, rows: int) -> None:
        self._stream, self._questions = stream, questions
        self.rows, self.row_length = rows, config.row_length
        self.num_queries = len(questions.domain)
        self.empty_histories = int((np.asarray(questions.visible) == 0).sum())
        self._time = self._relative_time()
        first, self._segment = self._share()
        visible = questions.visible[first]
        self._empty: Bool[np.ndarray, " W"] = visible == 0
        length = np.minimum(np.maximum(visible, 1), config.max_length)
        sequence = questions.sequence[first]
        start = stream.start[sequence] + np.maximum(visible - config.max_length, 0)
        windows = Windows(
            sequence=sequence.astype(np.int32),
            start=start,
            length=length.astype(np.int32),
        )
        self._geometry = domain_geometry(stream, windows)
        self._table = segment_table(stream, windows, self._geometry)
        self._queries_of = np.argsort(self._segment, kind="stable")
        self._query_offsets = np.searchsorted(self._segment[self._queries_of], np.arange(len(first) + 1))
        self._pack(windows, config)

    def _relative_time(self) -> Int32[np.ndarray, " Q"]:
        time, stream = self._questions.time, self._stream
        if time is None or not stream.has_time:
            return np.zeros(self.num_queries, np.int32)
        check_times(time, stream.time_origin, "queries")
        return (time - stream.time_origin).astype(np.int32)

    def _share(self) -> tuple[Int64[np.ndarray, " W"], Int64[np.ndarray, " Q"]]:
        """For each segment the first query that wants it, and for each query its segment."""
        asked = self._questions
        keys = np.stack([asked.sequence, asked.visible, asked.domain, self._time], axis=1).astype(np.int64)
        _, first, segment = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return first, segment.reshape(-1)

    def _pack(self, windows: Windows, config: BatchingConfig) -> None:
        """Rows, and the rows of each batch: rows with many queries and with few are dealt out evenly."""
        self._batch_rows: Int64[np.ndarray, "B R"] = np.zeros((0, self.rows), np.int64)
        self.segments = 1
        self.slots = 0
        if not self.num_queries:
            return
        pool = make_pool(windows.length)
        template = pack(slot_lengths(pool, windows.length), config.row_length)
        self.segments = template.segments
        self._window_in_slot = pool.order[template.slot_rank]
        self._row_offsets = template.row_offsets
        asked = np.diff(self._query_offsets)[self._window_in_slot]
        by_row = np.add.reduceat(asked, template.row_offsets[:-1])
        batches = -(-template.rows // self.rows)
        dealt = np.full(batches * self.rows, -1, np.int64)
        dealt[: template.rows] = np.argsort(-by_row, kind="stable")
        dealt = dealt.reshape(self.rows, batches)
        dealt[1::2] = dealt[1::2, ::-1]
        self._batch_rows = np.ascontiguousarray(dealt.T)
        counts = np.where(self._batch_rows >= 0, by_row[self._batch_rows], 0)
        self.slots = int(counts.sum(axis=1).max())

    def __len__(self) -> int:
        return len(self._batch_rows)

    def __getitem__(self, i: int) -> "tuple[Batch, Queries]":
        """Batch i and its queries, of numpy arrays.

        Raises:
            IndexError: no such batch.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        rows = self._batch_rows[i]
        slot, some = slots_of(self._row_offsets, rows[rows >= 0])
        count = np.zeros(self.rows, np.int64)
        count[rows >= 0] = some
        window = self._window_in_slot[slot]
        segments = self._table.take(window)
        layout = lay_out(count, segments.length, self.row_length)
        buffer = BatchBuffer(self.rows, self.row_length)
        tokens = fill_inputs(buffer, self._stream, self._geometry, layout, segments)
        buffer.clear_targets()
        buffer.wipe(tokens.empty)
        queries = self._fill_queries(buffer, layout, window, tokens)
        return buffer.batch(segment_users((self.rows, self.segments), layout, segments.user)), queries

    def _fill_queries(
        self, buffer: BatchBuffer, layout: Layout, window: Int[np.ndarray, " K"], tokens: Tokens
    ) -> "Queries":
        from mdrec_jax.types import Queries  # imports jax, which preparing data does without

        asked, begin = self._questions, self._query_offsets[window]
        count = self._query_offsets[window + 1] - begin
        query = self._queries_of[concatenated_ranges(begin, count)]
        segment = np.repeat(np.arange(len(window)), count)
        domain, time = asked.domain[query].astype(np.int32), self._time[query]
        place = layout.slot[segment] + layout.length[segment] - 1
        empty = self._empty[window][segment]
        self._fill_empty(buffer, place[empty], domain[empty], time[empty])
        previous = self._latest(buffer, layout, tokens, segment, domain)
        previous[empty] = -1
        buffer["target_domain"][place] = domain
        buffer["target_time"][place] = time
        buffer["previous_in_target_domain"][place] = previous
        return Queries(
            row=self._padded(place // self.row_length, 0),
            column=self._padded(place % self.row_length, 0),
            user=self._padded(asked.user[query], -1),
            domain=self._padded(domain, 0),
            target=self._padded(asked.target[query], 0),
            previous=self._padded(previous, -1),
            query=self._padded(query, -1),
        )

    def _padded(self, value: Int[np.ndarray, " q"], filler: int) -> Int32[np.ndarray, " Q"]:
        out = np.full(self.slots, filler, np.int32)
        out[: len(value)] = value
        return out

    @staticmethod
    def _fill_empty(
        buffer: BatchBuffer, place: Int[np.ndarray, " e"], domain: Int[np.ndarray, " e"], time: Int[np.ndarray, " e"]
    ) -> None:
        """The single token of a history without events: nothing happened, up to the moment of the query."""
        buffer["item"][place] = UNKNOWN_ITEM
        buffer["domain"][place], buffer["event"][place], buffer["time"][place] = domain, 0, time
        buffer["domain_position"][place] = 0

    def _latest(
        self,
        buffer: BatchBuffer,
        layout: Layout,
        tokens: Tokens,
        segment: Int64[np.ndarray, " q"],
        domain: Int32[np.ndarray, " q"],
    ) -> Int32[np.ndarray, " q"]:
        """For each query the column of its segment's latest event in its domain; -1 where there is none."""
        if self._geometry is None:
            return ((layout.slot + layout.length - 1)[segment] % self.row_length).astype(np.int32)
        domains = self._stream.num_domains
        latest = np.full((len(layout.length), domains), -1, np.int32)
        mine = layout.spread(np.arange(len(layout.length)))
        mine *= domains
        mine += buffer["domain"]
        there = np.flatnonzero(buffer["segment"])
        np.maximum.at(latest.reshape(-1), mine[there], tokens.column[there])
        return latest[segment, domain]


@dataclass(frozen=True)
class Histories:
    """Raw histories to recommend for: history h is events offsets[h] .. offsets[h + 1], oldest first.

    Items are internal ids (1 = not in the catalogue). `domain` and `event` may be left out where all are 0, `time`
    (seconds since the epoch) where the data set has no times.
    """

    offsets: Int64[np.ndarray, " H+1"]
    item: Int[np.ndarray, " N"]
    domain: Int[np.ndarray, " N"] | None = None
    event: Int[np.ndarray, " N"] | None = None
    time: Int64[np.ndarray, " N"] | None = None


def history_batches(
    histories: Histories,
    history: Int[np.ndarray, " Q"],
    domain: Int[np.ndarray, " Q"],
    config: BatchingConfig,
    spec: "DatasetSpec",
    *,
    rows: int,
    time: Int64[np.ndarray, " Q"] | None = None,
    time_origin: int = 0,
) -> QueryBatches:
    """Batches that ask history `history[q]` for items of domain `domain[q]`; `Queries.user` is the history's number.

    Args:
        config: as the model was trained with.
        spec: of the data set the model was trained on.
        time: seconds since the epoch at which each query is asked, where the model may read it.
        time_origin: `manifest.time_origin` of that data set.

    Raises:
        ValueError: columns of different lengths, or times that are needed and missing.
        InputError: times further than 68 years from the origin.
    """
    count = len(histories.item)
    if int(histories.offsets[-1]) != count:
        raise ValueError(f"{count} items, but offsets end at {int(histories.offsets[-1])}")
    if spec.has_time and histories.time is None:
        raise ValueError("the data set has times, so histories need them")
    nothing = np.zeros(count, np.int16)
    domains = nothing if histories.domain is None else np.asarray(histories.domain)
    events = nothing if histories.event is None else np.asarray(histories.event)
    times = np.zeros(count, np.int64) if histories.time is None else np.asarray(histories.time)
    if not len(domains) == len(events) == len(times) == count:
        raise ValueError("the columns of the histories differ in length")
    if spec.has_time:
        check_times(times, time_origin, "histories")
    item = np.asarray(histories.item).astype(np.int32)
    length = np.diff(histories.offsets).astype(np.int64)
    stream = EventStream(
        item=_never_empty(item),
        target=_never_empty(item),
        domain=_never_empty(domains),
        event=_never_empty(events),
        time=_never_empty(times),
        start=np.asarray(histories.offsets[:-1]).astype(np.int64),
        length=length,
        user=np.arange(len(length), dtype=np.int32),
        num_domains=spec.num_domains,
        num_events=spec.num_events,
        has_time=spec.has_time,
        time_origin=time_origin,
    )
    history = np.asarray(history)
    nobody = np.zeros(len(history), np.int32)
    questions = Questions(history, length[history], history, np.asarray(domain), nobody, time)
    return QueryBatches(stream, questions, config, rows=rows)


def _never_empty(column: Int[np.ndarray, " N"]) -> Int[np.ndarray, " M"]:
    """The column, or a single 0: the token of an empty history is gathered from somewhere before it is overwritten."""
    return column if len(column) else np.zeros(1, column.dtype)
