"""Targets drawn from several events ahead."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
from mdrec_jax.data.batching.horizon import draw_distances
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.types import Batch
from tests.data.logs import TRAIN, assert_padding_is_empty, dataset_of, datasets

TARGET = ("target", "target_domain", "target_time")


def cells(batch: Batch) -> list[tuple[int, list[int]]]:
    """(row, columns) of each segment."""
    segment = np.asarray(batch.segment)
    return [(row, np.flatnonzero(of == n).tolist()) for row, of in enumerate(segment) for n in set(of.tolist()) - {0}]


def looked_ahead(near: Batch, distance: np.ndarray, row: int, columns: list[int], column: int) -> dict[str, int]:
    """What the token's target is by the rule, said by way of a batch whose targets are the next events."""
    seen = min(column + int(distance[row, column]) - 1, columns[-1])
    if not near.weight[row, column] or not near.weight[row, seen]:
        seen = column
    expected = {name: int(getattr(near, name)[row, seen]) for name in TARGET}
    same = [c for c in columns if c <= column and near.domain[row, c] == expected["target_domain"]]
    expected["previous_in_target_domain"] = max(same, default=-1) if near.weight[row, column] else -1
    return expected


@settings(max_examples=60, deadline=None)
@given(dataset=datasets(), horizon=st.integers(2, 9), length=st.integers(1, 9), window=st.sampled_from(["last", "all"]))
def test_a_target_is_the_event_that_was_drawn_or_the_last_of_its_segment(
    dataset: Dataset, horizon: int, length: int, window: str
) -> None:
    config = BatchingConfig(rows=2, row_length=12, max_length=length, window=window)  # pyright: ignore[reportArgumentType]
    near, far = (TrainBatches(dataset, dataclasses.replace(config, horizon=h), 3)[1] for h in (1, horizon))
    distance = draw_distances(3, 1, 24, horizon).reshape(2, 12)
    for row, columns in cells(far):
        for column in columns:
            expected = looked_ahead(near, distance, row, columns, column)
            assert {name: int(getattr(far, name)[row, column]) for name in expected} == expected
    for name in ("item", "segment", "domain", "time", "position", "domain_position", "weight"):
        np.testing.assert_array_equal(getattr(far, name), getattr(near, name))
    assert_padding_is_empty(far)


def test_nearer_events_are_drawn_more_often():
    shares = np.bincount(draw_distances(0, 0, 600_000, 3))[1:] / 600_000
    np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=0.003)


def test_a_process_builds_its_own_rows_of_the_same_batch():
    dataset, config = dataset_of([[TRAIN] * 9] * 20, num_domains=2), BatchingConfig(2, 18, 9, horizon=4)
    whole, below = TrainBatches(dataset, config, 0)[2], TrainBatches(dataset, config, 0, local_rows=(1, 2))[2]
    for name in (*TARGET, "previous_in_target_domain"):
        np.testing.assert_array_equal(getattr(whole, name)[1:], getattr(below, name))


def test_a_horizon_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"batching\.horizon"):
        BatchingConfig(horizon=0)
