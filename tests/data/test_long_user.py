"""One user with very many events sets the size of nothing that everybody shares: allocated bytes are counted."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
from mdrec_jax.data.batching.histories import Histories, history_batches
from mdrec_jax.data.batching.queries import query_batches, query_list
from mdrec_jax.data.dataset import Dataset
from tests.data.logs import ORIGIN, TEST, TRAIN, VALIDATION, dataset_of

LONG, SHORT, PEOPLE = 20_000, 9, 300
CONFIG = BatchingConfig(rows=4, row_length=64, max_length=32)


def world(longest: int) -> Dataset:
    lengths = [longest, *[SHORT] * PEOPLE]
    return dataset_of([[TRAIN] * (length - 2) + [VALIDATION, TEST] for length in lengths], num_domains=2)


def peak(work: Callable[[], object]) -> int:
    """The most bytes that are allocated at once while something is done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sizes(batch: Any) -> list[int]:
    parts = batch if isinstance(batch, tuple) else (batch,)
    return [np.asarray(value).size for part in parts for value in vars(part).values() if value is not None]


def training(dataset: Dataset, window: str) -> list[Any]:
    batches = TrainBatches(dataset, BatchingConfig(rows=4, row_length=64, max_length=32, window=window), 0)  # type: ignore[arg-type]
    return [sizes(batches[i]) for i in range(batches.batches_per_epoch())]


def asked(dataset: Dataset) -> list[Any]:
    source = query_batches(dataset, query_list(dataset, "validation"), CONFIG, rows=CONFIG.rows)
    return [sizes(source[i]) for i in range(len(source))]


def recommended(dataset: Dataset) -> list[Any]:
    offsets, person = np.asarray(dataset.sequence_offsets), np.arange(dataset.num_sequences)
    histories = Histories(offsets, dataset.item, dataset.domain, dataset.event, np.asarray(dataset.time))
    source = history_batches(
        histories, person, np.zeros_like(person), CONFIG, dataset.spec, rows=CONFIG.rows, time_origin=ORIGIN
    )
    return [sizes(source[i]) for i in range(len(source))]


@pytest.mark.parametrize("work", [lambda d: training(d, "last"), asked, recommended])
def test_batches_are_those_of_people_who_are_as_long_as_a_window(work: Callable[[Dataset], list[Any]]) -> None:
    long, usual = work(world(LONG)), work(world(CONFIG.max_length + 2))
    assert len(long) == len(usual)
    assert all(max(one) <= CONFIG.rows * CONFIG.row_length for one in long)
    assert {tuple(one) for one in long} == {tuple(one) for one in usual}


@pytest.mark.parametrize("work", [lambda d: training(d, "last"), lambda d: training(d, "all"), asked, recommended])
def test_what_is_allocated_follows_the_number_of_events(work: Callable[[Dataset], list[Any]]) -> None:
    """A matrix of everybody by the longest history would hold 270 numbers for each of these events."""
    dataset = world(LONG)
    work(world(SHORT))  # what is imported and kept
    assert peak(lambda: work(dataset)) < 120 * len(dataset.item) + (1 << 20)
