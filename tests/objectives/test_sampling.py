import jax
import numpy as np
import pytest

from mdrec_jax.objectives.sampling import SamplerTables, draw, draw_from_batch, sampler_tables

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
    only = jax.numpy.arange(5) == 4
    assert set(np.asarray(draw_from_batch(target, only, jax.random.key(0), 4))) == {8}


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_the_probability_is_that_of_the_count(sampler: str) -> None:
    tables = sampler_tables(POOLS, COUNTS, sampler)
    for pool, items, log_probability in zip(POOLS, tables.items, tables.log_probability, strict=True):
        weights = COUNTS[pool] + 1.0 if sampler == "popularity" else np.ones(len(pool))
        np.testing.assert_allclose(log_probability[pool], np.log(weights / weights.sum()), rtol=1e-6)
        outside = np.setdiff1d(np.arange(len(COUNTS)), pool)
        np.testing.assert_array_equal(log_probability[outside], 0.0)
        np.testing.assert_array_equal(items, [*pool, *[0] * (4 - len(pool))])


def test_an_item_is_drawn_by_the_numbers_up_to_its_own_edge() -> None:
    """The edges are numbers that are drawn: an edge still belongs to its item, so shares are exact to one in 2^32."""
    key, number = jax.random.key(1), 50
    bits = np.asarray(jax.random.bits(key, (2, number), jax.numpy.uint32))
    edges = np.stack([[*np.sort(row[:3]), np.uint32(0xFFFFFFFF)] for row in bits])
    items = np.asarray([[5, 6, 7, 8], [3, 4, 9, 2]], np.int32)
    drawn = draw(
        SamplerTables(jax.numpy.asarray(items), jax.numpy.asarray(edges), jax.numpy.zeros((2, 10))), key, number
    )
    expected = [
        [row[sum(edge < x for edge in own)] for x in xs] for row, own, xs in zip(items, edges, bits, strict=True)
    ]
    np.testing.assert_array_equal(drawn, expected)


def test_the_edges_of_a_pool_share_all_numbers_out() -> None:
    tables = sampler_tables(POOLS, COUNTS, "popularity")
    for pool, edges in zip(POOLS, np.asarray(tables.cumulative).astype(np.int64), strict=True):
        steps = np.diff(edges[: len(pool)], prepend=-1)
        assert steps.sum() == 2**32
        np.testing.assert_allclose(steps / 2**32, (COUNTS[pool] + 1) / (COUNTS[pool] + 1).sum(), rtol=1e-6)
        assert (edges[len(pool) - 1 :] == 2**32 - 1).all()


def test_one_allowed_target_of_a_batch_is_every_draw() -> None:
    target, allowed = np.asarray([5, 9, 7], np.int32), np.asarray([True, False, False])
    drawn = draw_from_batch(jax.numpy.asarray(target), jax.numpy.asarray(allowed), jax.random.key(0), 50)
    assert set(np.asarray(drawn)) == {5}
