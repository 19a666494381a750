import jax
import numpy as np
import pytest

from mdrec_jax.objectives.sampling import draw, draw_from_batch, sampler_tables

COUNTS = np.array([0, 0, 5, 1, 0, 90, 4, 0])
POOLS = [np.array([2, 3, 5]), np.array([4, 6, 7, 5])]


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_items_are_drawn_as_often_as_the_reported_probability_says(sampler: str) -> None:
    tables = sampler_tables(POOLS, COUNTS, sampler)
    number = 200_000
    drawn = np.asarray(draw(tables, jax.random.key(3), number))
    for pool, items, log_probability in zip(POOLS, drawn, np.asarray(tables.log_probability), strict=True):
        assert set(items) <= set(pool)
        share = np.bincount(items, minlength=len(COUNTS))[pool] / number
        expected = np.exp(log_probability[pool])
        np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-6)
        np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / number))


def test_every_item_of_a_large_pool_can_be_drawn() -> None:
    counts = np.zeros(50_002)
    counts[2] = 1e12
    tables = sampler_tables([np.arange(2, 50_002)], counts, "popularity")
    steps = np.diff(np.asarray(tables.cumulative[0]).astype(np.int64), prepend=-1)
    assert steps.min() >= 1
    assert steps.sum() == 2**32


def test_draws_from_the_batch_are_its_allowed_targets() -> None:
    target = jax.numpy.asarray([9, 3, 4, 3, 8])
    allowed = jax.numpy.asarray([False, True, True, True, False])
    drawn = np.asarray(draw_from_batch(target, allowed, jax.random.key(0), 30_000))
    assert set(drawn) == {3, 4}
    np.testing.assert_allclose((drawn == 3).mean(), 2 / 3, atol=0.02)
    assert set(np.asarray(draw_from_batch(target, allowed & False, jax.random.key(0), 4))) == {2}
