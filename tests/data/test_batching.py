"""What a training batch must hold, and what it must not depend on."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.types import Batch
from tests.data.logs import (
    CONTEXT,
    TEST,
    TRAIN,
    VALIDATION,
    assert_padding_is_empty,
    dataset_of,
    datasets,
    expected_training,
    in_order,
    segments_of,
)
from tests.data.make import make_dataset, numbered

SMALL = BatchingConfig(rows=2, row_length=8, max_length=6)


def epoch(batches: TrainBatches, number: int = 0) -> list[Batch]:
    count = batches.batches_per_epoch()
    return [batches[i] for i in range(number * count, (number + 1) * count)]


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def loo_roles(lengths: np.ndarray) -> list[list[int]]:
    return [[TRAIN] * (int(length) - 2) + [VALIDATION, TEST] for length in lengths]


@st.composite
def configs(draw: st.DrawFn) -> BatchingConfig:
    max_length = draw(st.integers(1, 6))
    return BatchingConfig(
        rows=draw(st.integers(1, 3)),
        row_length=max_length + draw(st.integers(0, 6)),
        max_length=max_length,
        window=draw(st.sampled_from(["last", "all"])),
    )


@settings(max_examples=150, deadline=None)
@given(dataset=datasets(), config=configs(), seed=st.integers(0, 3))
def test_an_epoch_holds_what_building_one_sequence_at_a_time_gives(
    dataset: Dataset, config: BatchingConfig, seed: int
) -> None:
    batches = TrainBatches(dataset, config, seed)
    expected = expected_training(dataset, config)
    for number in (0, 1):
        found = epoch(batches, number)
        assert in_order([segment for batch in found for segment in segments_of(batch)]) == in_order(expected)
        for batch in found:
            assert_padding_is_empty(batch)
            assert batch.item.shape == (config.rows, config.row_length)
            assert batch.segment_user.shape == (config.rows, batches.segments)
    assert batches.targets_per_epoch == sum(entry["weight"] for _, tokens in expected for entry in tokens)


@pytest.mark.parametrize("window", ["last", "all"])
def test_the_previous_event_of_a_domain_is_never_looked_for_outside_the_window(window) -> None:
    config = BatchingConfig(rows=4, row_length=15, max_length=3, window=window)
    dataset = dataset_of([[TRAIN] * 8] * 40, num_domains=3)
    found = [segment for batch in epoch(TrainBatches(dataset, config, 0)) for segment in segments_of(batch)]
    assert in_order(found) == in_order(expected_training(dataset, config))


def test_every_field_has_the_type_that_a_batch_promises() -> None:
    batch = TrainBatches(dataset_of([[TRAIN] * 4], num_domains=2), SMALL, 0)[0]
    for field in fields(Batch):
        assert getattr(batch, field.name).dtype == (np.float32 if field.name == "weight" else np.int32), field.name


def test_windows_over_all_of_a_history_score_every_target_exactly_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 60)
    dataset = dataset_of([[TRAIN] * int(length) for length in lengths], num_domains=2)
    config = BatchingConfig(rows=4, row_length=16, max_length=8, window="all")
    batches = TrainBatches(dataset, config, 0)
    first = set(dataset.item[dataset.sequence_offsets[:-1]].tolist())
    for number in range(3):
        scored = Counter()
        for batch in epoch(batches, number):
            scored.update(batch.target[batch.weight > 0].tolist())
        assert scored == Counter(set(dataset.item.tolist()) - first)


@settings(max_examples=60, deadline=None)
@given(dataset=datasets())
def test_validation_and_test_events_are_neither_read_nor_predicted_in_training(dataset: Dataset) -> None:
    hidden = dataset.item[(dataset.role == VALIDATION) | (dataset.role == TEST)]
    predicted = dataset.item[dataset.role == TRAIN]
    for batch in epoch(TrainBatches(dataset, SMALL, 0)):
        assert not np.isin(batch.item, hidden).any()
        assert np.isin(batch.target[batch.target > 0], predicted).all()


def test_context_events_are_read_where_a_training_event_follows_and_never_predicted() -> None:
    dataset = dataset_of([[CONTEXT, TRAIN, CONTEXT, TRAIN, CONTEXT, VALIDATION, CONTEXT, TEST], [CONTEXT, CONTEXT]])
    items = dataset.item.tolist()
    ((_, tokens),) = segments_of(TrainBatches(dataset, SMALL, 0)[0])
    assert [entry["item"] for entry in tokens] == items[:3]
    assert [entry["target"] for entry in tokens] == [items[1], 0, items[3]]
    assert [entry["weight"] for entry in tokens] == [1, 0, 1]


def test_sequences_with_a_single_training_event_are_left_out_and_counted() -> None:
    batches = TrainBatches(
        dataset_of([[TRAIN], [TRAIN] * 3, [TRAIN, TEST], [], [VALIDATION], [CONTEXT, TRAIN]]), SMALL, 0
    )
    assert batches.sequences_left_out == 2
    assert batches.targets_per_epoch == 3


@pytest.mark.parametrize("roles", [[], [[TRAIN], [TRAIN, TEST]], [[TEST, CONTEXT]]])
def test_a_data_set_without_anything_to_predict_is_refused(roles: list[list[int]]) -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        TrainBatches(dataset_of(roles), SMALL, 0)


def test_times_that_do_not_fit_32_bits_are_refused() -> None:
    dataset = dataset_of([[TRAIN] * 3])
    with pytest.raises(InputError, match="68 years"):
        TrainBatches(replace(dataset, time=dataset.time * 10_000), SMALL, 0)


def test_a_batch_does_not_depend_on_the_order_or_the_thread_it_is_asked_in() -> None:
    dataset = dataset_of(loo_roles(np.random.default_rng(1).integers(3, 30, 80)), num_domains=2)
    straight = TrainBatches(dataset, SMALL, 5)
    expected = [straight[i] for i in range(4 * straight.batches_per_epoch())]
    shuffled = np.random.default_rng(2).permutation(len(expected)).tolist()
    other = TrainBatches(dataset, SMALL, 5)
    with ThreadPoolExecutor(4) as threads:
        for i, batch in zip(shuffled, threads.map(other.__getitem__, shuffled), strict=True):
            assert_equal(batch, expected[i])
    assert len(other._plans) <= 2


def test_seeds_and_epochs_give_other_orders_of_the_same_segments() -> None:
    dataset = dataset_of(loo_roles(np.random.default_rng(1).integers(3, 30, 80)))
    batches = TrainBatches(dataset, SMALL, 0)
    for other in (epoch(batches, 1), epoch(TrainBatches(dataset, SMALL, 1))):
        assert any((one.item != two.item).any() for one, two in zip(epoch(batches), other, strict=True))


def test_the_processes_rows_one_behind_the_other_are_the_batch() -> None:
    dataset = dataset_of(loo_roles(np.random.default_rng(1).integers(3, 12, 50)), num_domains=3)
    config = replace(SMALL, rows=6)
    whole = TrainBatches(dataset, config, 0)
    parts = [TrainBatches(dataset, config, 0, local_rows=rows) for rows in ((0, 2), (2, 3), (3, 6))]
    for i in range(whole.batches_per_epoch()):
        batches = [part[i] for part in parts]
        joined = {f.name: np.concatenate([getattr(batch, f.name) for batch in batches]) for f in fields(Batch)}
        assert_equal(Batch(**joined), whole[i])


def test_an_epoch_ends_with_empty_rows_and_the_next_one_follows() -> None:
    dataset = dataset_of([[TRAIN] * 7] * 5)
    batches = TrainBatches(dataset, BatchingConfig(rows=4, row_length=8, max_length=8), 0)
    assert batches.batches_per_epoch() == 2
    assert [int(batches[i].weight.sum()) for i in range(4)] == [24, 6, 24, 6]
    last = batches[1]
    assert ((last.segment > 0).any(axis=1) == [True, False, False, False]).all()
    assert (last.segment_user[1:] == -1).all()
    with pytest.raises(IndexError):
        batches[-1]


@pytest.mark.parametrize("row_length", [128, 256])
def test_rows_are_filled_to_98_percent_on_lengths_like_those_of_amazon_beauty(row_length: int) -> None:
    lengths = 5 + np.random.default_rng(0).exponential(3.9, 20_000).astype(int)
    batches = TrainBatches(dataset_of(loo_roles(lengths)), BatchingConfig(rows=16, row_length=row_length), 0)
    slots = sum(int((batch.segment > 0).any(axis=1).sum()) * row_length for batch in epoch(batches))
    assert batches.targets_per_epoch / slots >= 0.98
    assert batches.fill == pytest.approx(batches.targets_per_epoch / slots)


def test_a_prepared_dataset_is_read_from_its_memory_mapped_columns(tmp_path) -> None:
    dataset = make_dataset(tmp_path / "data", numbered(30, 12, 40))
    batches = TrainBatches(dataset, SMALL, 0)
    assert np.shares_memory(batches.stream.item, dataset.item)
    found = [segment for batch in epoch(batches) for segment in segments_of(batch)]
    assert in_order(found) == in_order(expected_training(dataset, SMALL))


def test_training_events_that_held_out_events_of_other_domains_part_are_joined(tmp_path) -> None:
    dataset = make_dataset(tmp_path / "data", numbered(30, 12, 40, ("books", "films")))
    found = [segment for batch in epoch(TrainBatches(dataset, SMALL, 0)) for segment in segments_of(batch)]
    assert in_order(found) == in_order(expected_training(dataset, SMALL))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 0), ("row_length", 49), ("max_length", 0), ("max_length", 70_000), ("window", "first"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        BatchingConfig(**{field: value})
