"""Drawn candidates are uniform, never excluded, and a function of (seed, draw, query) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.candidates import draw


def lists(*values: list[int]) -> Csr:
    return Csr(
        from_lengths(np.array([len(one) for one in values])), np.array([x for one in values for x in one], np.int32)
    )


def picked(csr: Csr, some: np.ndarray) -> Csr:
    parts = [csr.values[csr.offsets[i] : csr.offsets[i + 1]] for i in some]
    return Csr(from_lengths(np.array([len(part) for part in parts])), np.concatenate(parts))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), replacement=st.booleans(), seed=st.integers(0, 2**31))
def test_draws_come_from_the_universe_and_never_from_what_is_excluded(data, replacement: bool, seed: int) -> None:
    universe = np.array(sorted(data.draw(st.sets(st.integers(2, 400), min_size=8, max_size=120))), np.int32)
    queries = data.draw(st.integers(1, 5))
    excluded = [sorted(data.draw(st.sets(st.integers(0, 400), max_size=6))) for _ in range(queries)]
    left = min(len(set(universe.tolist()) - set(one)) for one in excluded)
    negatives = data.draw(st.integers(1, max(1, left)))
    if left < (1 if replacement else negatives):
        return
    drawn = draw(universe, lists(*excluded), np.arange(queries), negatives, replacement=replacement, seed=seed)
    assert drawn.shape == (queries, negatives)
    for row, barred in zip(drawn.tolist(), excluded, strict=True):
        assert set(row) <= set(universe.tolist()) - set(barred)
        assert replacement or len(set(row)) == negatives


@pytest.mark.parametrize(("size", "negatives"), [(5000, 99), (300, 99), (99, 99)])
@pytest.mark.parametrize("replacement", [False, True])
def test_a_draw_does_not_depend_on_how_queries_are_put_into_blocks(
    size: int, negatives: int, replacement: bool
) -> None:
    universe = np.arange(2, size + 3, dtype=np.int32)
    excluded = lists(*([2 + i] for i in range(40)))
    together = draw(universe, excluded, np.arange(40), negatives, replacement=replacement, seed=1)
    some = np.array([31, 4, 17])
    apart = draw(universe, picked(excluded, some), some, negatives, replacement=replacement, seed=1)
    np.testing.assert_array_equal(apart, together[some])


def test_seeds_and_draw_numbers_give_other_items() -> None:
    universe, nothing = np.arange(2, 3000, dtype=np.int32), lists([], [])
    query = np.arange(2)
    first = draw(universe, nothing, query, 50, replacement=False, seed=0)
    for other in ({"seed": 1}, {"seed": 0, "number": 1}):
        assert (draw(universe, nothing, query, 50, replacement=False, **other) != first).mean() > 0.9
    assert (first[0] != first[1]).mean() > 0.9


@pytest.mark.parametrize(("size", "replacement"), [(50, False), (50, True), (200, False)])
def test_every_item_is_drawn_equally_often(size: int, replacement: bool) -> None:
    """Chi-squared over 20,000 queries, far inside its range; both ways of drawing without replacement."""
    universe = np.arange(2, size + 2, dtype=np.int32)
    queries, negatives = 20_000, 20
    nothing = Csr(np.zeros(queries + 1, np.int64), np.zeros(0, np.int32))
    drawn = draw(universe, nothing, np.arange(queries), negatives, replacement=replacement, seed=5)
    counts = np.bincount(drawn.ravel() - 2, minlength=size)
    expected = queries * negatives / size
    spread = expected if replacement else expected * (1 - negatives / size)
    chi = ((counts - expected) ** 2 / spread).sum() / size
    assert 0.5 < chi < 1.6


def test_too_small_a_universe_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="too few items") as error:
        draw(np.arange(2, 12, dtype=np.int32), lists([3]), np.arange(1), 10, replacement=False, seed=0)
    assert "uniformN" in str(error.value)
