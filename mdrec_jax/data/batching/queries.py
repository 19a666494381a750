"""A split's queries: every validation or test event, and what of its sequence may be seen before it.

A validation query sees the training and context events before its target; a test query also sees the validation
events before it. Nothing else of the split is seen: two test events of one sequence never see each other.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.histories import QueryBatches, Questions
from mdrec_jax.data.batching.streams import (
    ROLE_TEST,
    ROLE_TRAIN,
    ROLE_VALIDATION,
    make_stream,
    plain,
    visible_events,
)
from mdrec_jax.data.csr import concatenated_ranges
from mdrec_jax.errors import InputError

if TYPE_CHECKING:
    from mdrec_jax.data.dataset import Dataset

TARGET_ROLE = {"validation": ROLE_VALIDATION, "test": ROLE_TEST}


@dataclass(frozen=True)
class QueryList:
    """The Q queries of a split, in the order of the data set's events. numpy alone; no model is needed to use it."""

    dataset: "Dataset" = field(repr=False)
    split: Literal["validation", "test"]
    place: Int64[np.ndarray, " Q"]
    """Where the target stands in the data set's columns."""
    sequence: Int32[np.ndarray, " Q"]
    user: Int32[np.ndarray, " Q"]
    domain: Int32[np.ndarray, " Q"]
    target: Int32[np.ndarray, " Q"]
    time: Int64[np.ndarray, " Q"]
    """The target's time, seconds since the epoch."""
    visible: Int64[np.ndarray, " n"]
    """Places of all events that the split may see, rising."""
    history_begin: Int64[np.ndarray, " Q"]
    history_end: Int64[np.ndarray, " Q"]
    """The query's visible history is the events visible[history_begin : history_end]."""

    def __len__(self) -> int:
        return len(self.place)

    @property
    def history_length(self) -> Int64[np.ndarray, " Q"]:
        """How many events each query sees, before any cut to a model's length."""
        return self.history_end - self.history_begin

    def history_places(
        self, query: Int[np.ndarray, " B"], last: int | None = None
    ) -> tuple[Int64[np.ndarray, " B+1"], Int64[np.ndarray, " E"]]:
        """Places in the data set's columns of the visible histories of some queries, oldest first, one behind another.

        Args:
            last: only the latest so many events of each.

        Returns:
            Offsets, and the places that lie between them.
        """
        begin, end = self.history_begin[query], self.history_end[query]
        if last is not None:
            begin = np.maximum(begin, end - last)
        offsets = np.concatenate([[0], np.cumsum(end - begin)])
        return offsets, self.visible[concatenated_ranges(begin, end - begin)]

    def seen_items(
        self, query: Int[np.ndarray, " B"], *, train_only: bool = False
    ) -> tuple[Int64[np.ndarray, " B+1"], Int32[np.ndarray, " E"]]:
        """The items of the whole visible histories (with `train_only`, of their training events), as they came.

        Returns:
            Offsets, and the items that lie between them.
        """
        offsets, places = self.history_places(query)
        items = plain(self.dataset.item)[places]
        if not train_only:
            return offsets, items
        kept: Bool[np.ndarray, " E"] = plain(self.dataset.role)[places] == ROLE_TRAIN
        return np.concatenate([[0], np.cumsum(kept)])[offsets], items[kept]


def query_list(dataset: "Dataset", split: Literal["validation", "test"]) -> QueryList:
    """The queries of a split.

    Raises:
        InputError: the data set has no target in the split.
    """
    place = np.flatnonzero(plain(dataset.role) == TARGET_ROLE[split])
    if not len(place):
        raise InputError(
            f"the data set has no {split} targets", file=str(dataset.path), expected=f"events whose role is {split}"
        )
    offsets = plain(dataset.sequence_offsets).astype(np.int64)
    sequence = np.searchsorted(offsets, place, side="right") - 1
    visible = visible_events(dataset, split)
    return QueryList(
        dataset=dataset,
        split=split,
        place=place,
        sequence=sequence.astype(np.int32),
        user=plain(dataset.sequence_user)[sequence].astype(np.int32),
        domain=plain(dataset.domain)[place].astype(np.int32),
        target=plain(dataset.item)[place].astype(np.int32),
        time=plain(dataset.time)[place].astype(np.int64),
        visible=visible,
        history_begin=np.searchsorted(visible, offsets[sequence]),
        history_end=np.searchsorted(visible, place),
    )


def training_ends(dataset: "Dataset") -> QueryList:
    """Where each sequence's training ends: its history up to and with its last training event, asked for no target.

    No next item was ever learned from there, and nothing of validation or test is read.
    """
    offsets = plain(dataset.sequence_offsets).astype(np.int64)
    train = np.flatnonzero(plain(dataset.role) == ROLE_TRAIN)
    last = np.searchsorted(train, offsets[1:])
    sequence = np.flatnonzero(np.searchsorted(train, offsets[:-1]) < last)
    place = train[last[sequence] - 1]
    visible = visible_events(dataset, "train")
    return QueryList(
        dataset=dataset,
        split="validation",
        place=place,
        sequence=sequence.astype(np.int32),
        user=plain(dataset.sequence_user)[sequence].astype(np.int32),
        domain=plain(dataset.domain)[place].astype(np.int32),
        target=np.zeros(len(place), np.int32),
        time=plain(dataset.time)[place].astype(np.int64),
        visible=visible,
        history_begin=np.searchsorted(visible, offsets[sequence]),
        history_end=np.searchsorted(visible, place, side="right"),
    )


def query_batches(
    dataset: "Dataset", queries: QueryList, config: BatchingConfig, *, rows: int, query_time: bool = False
) -> QueryBatches:
    """Batches that ask all of the queries once: a source of (Batch, Queries), `Queries.query` an index into the list.

    Args:
        rows: R.
        query_time: tell the model the target's time (`Batch.target_time`; 0 else). Queries that differ in it do not
            share a segment then.

    Raises:
        InputError: times that do not fit.
    """
    if queries.dataset is not dataset:
        raise ValueError("the queries were listed from another data set")
    sequence, first, number = np.unique(queries.sequence, return_index=True, return_inverse=True)
    end = np.maximum.reduceat(queries.history_end, first)  # a sequence's queries stand side by side
    stream = make_stream(dataset, queries.visible, sequence, queries.history_begin[first], end, targets=False)
    questions = Questions(
        sequence=number.reshape(-1),
        visible=queries.history_length,
        user=queries.user,
        domain=queries.domain,
        target=queries.target,
        time=queries.time if query_time else None,
    )
    return QueryBatches(stream, questions, config, rows=rows)
