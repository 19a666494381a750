"""Rows made from a histogram of lengths, and the epochs that are laid over them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching.packing_plan import make_pool, pack, plan_epoch, slot_lengths

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=60)


def lengths_by_slot(pool, template, length: np.ndarray) -> np.ndarray:
    """The length of every slot, row by row."""
    size, count = slot_lengths(pool, length).T
    return np.repeat(size, count)[template.slot_rank]


@settings(max_examples=100, deadline=None)
@given(length=LENGTHS, row_length=st.integers(12, 40))
def test_every_window_has_a_slot_and_no_row_overflows(length: list[int], row_length: int) -> None:
    lengths = np.array(length)
    pool = make_pool(lengths)
    template = pack(slot_lengths(pool, lengths), row_length)
    by_slot = lengths_by_slot(pool, template, lengths)
    assert sorted(by_slot.tolist()) == sorted(length)
    assert sorted(template.slot_rank.tolist()) == list(range(len(length)))
    rows = np.split(by_slot, template.row_offsets[1:-1])
    assert max(row.sum() for row in rows) <= row_length
    assert max(len(row) for row in rows) == template.segments <= row_length


def test_rows_are_full_where_lengths_allow_it() -> None:
    assert pack(np.array([[8, 3], [4, 2], [2, 6], [1, 4]]), 8).rows == 6
    assert pack(np.array([[5, 4], [3, 4]]), 8).rows == 4


def test_two_packings_of_the_same_lengths_are_the_same() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    one, two = (pack(slot_lengths(make_pool(order), order), 128) for order in (lengths, lengths[::-1]))
    np.testing.assert_array_equal(one.slot_rank, two.slot_rank)
    np.testing.assert_array_equal(one.row_offsets, two.row_offsets)


def test_an_epoch_draws_every_window_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 500)
    pool = make_pool(lengths)
    plan = plan_epoch(pool, pack(slot_lengths(pool, lengths), 16), 3, 7)
    assert sorted(plan.draw.tolist()) == list(range(500))
    assert (np.diff(lengths[plan.draw]) <= 0).all()


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 500)
    pool = make_pool(lengths)
    template = pack(slot_lengths(pool, lengths), 16)
    plan = plan_epoch(pool, template, 3, 7)
    np.testing.assert_array_equal(plan.draw, plan_epoch(pool, template, 3, 7).draw)
    for seed, epoch in ((3, 8), (4, 7), (7, 3)):
        other = plan_epoch(pool, template, seed, epoch)
        assert (plan.draw != other.draw).any()
        assert (plan.row_order != other.row_order).any()


@pytest.mark.parametrize("epochs", [4000])
def test_windows_of_a_length_take_every_slot_of_that_length_alike(epochs: int) -> None:
    lengths = np.full(4, 2)
    pool = make_pool(lengths)
    template = pack(slot_lengths(pool, lengths), 4)
    first = np.bincount([plan_epoch(pool, template, 0, epoch).draw[0] for epoch in range(epochs)], minlength=4)
    np.testing.assert_allclose(first / epochs, 0.25, atol=0.03)
