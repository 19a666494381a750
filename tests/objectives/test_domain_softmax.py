"""A softmax over each target's own domain, pool by pool, is the masked softmax over everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels import linear_xent

from mdrec_jax.objectives.domain_softmax import MOST_POOLS, make_pools
from mdrec_jax.objectives.next_item import NextItemConfig, make_objective

V, D, N = 40, 8, 24
CHANCE = np.random.default_rng(0)
APART = [np.arange(2, 13), np.arange(13, 20), np.arange(20, 37)]
SHARED = [np.arange(2, 20), np.array([3, 7, 30]), np.arange(15, 37)]


@pytest.mark.parametrize("pools", [APART, SHARED], ids=["disjoint", "overlapping"])
def test_value_and_gradients_are_those_of_the_masked_softmax(pools: list[np.ndarray]) -> None:
    x, vectors = (jnp.asarray(CHANCE.normal(size=(n, D)), jnp.float32) for n in (N, V))
    pool = CHANCE.integers(0, len(pools), N).astype(np.int32)
    target = np.array([CHANCE.choice(pools[g]) for g in pool], np.int32)
    weight = (CHANCE.random(N) * (CHANCE.random(N) < 0.7)).astype(np.float32)
    allowed = np.zeros((len(pools), V), bool)
    for number, items in enumerate(pools):
        allowed[number, items] = True
    made = make_pools(pools, V)
    assert made is not None

    def by_pool(x: jax.Array, vectors: jax.Array) -> jax.Array:
        return made.loss(x, vectors, jnp.asarray(target), jnp.asarray(weight), jnp.asarray(pool))

    def masked(x: jax.Array, vectors: jax.Array) -> jax.Array:
        known = {"allowed": allowed, "group": pool, "implementation": "reference"}
        return linear_xent.linear_xent_sum(x, vectors, target, weight, **known)

    found, expected = (jax.value_and_grad(loss, (0, 1))(x, vectors) for loss in (by_pool, masked))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_scores_are_made_with_the_items_of_one_pool_at_a_time() -> None:
    made = make_pools(APART, V)
    assert made is not None
    x, vectors, whole = jnp.zeros((N, D)), jnp.zeros((V, D)), jnp.zeros(N, jnp.int32)
    text = str(jax.make_jaxpr(made.loss)(x, vectors, whole, jnp.zeros(N), whole))
    assert f",{V}]" not in text.replace(f"i32[{len(APART)},{V}]", "")
    assert all(f",{len(items)}]" in text for items in APART)


def test_one_pool_and_very_many_take_the_mask() -> None:
    def pools_of(number: int) -> object:
        items = np.array_split(np.arange(2, 2 + 3 * number), number)
        config = NextItemConfig(softmax_over="target_domain")
        return make_objective(config, items, np.ones(3 * number + 2), 3 * number + 2).pools

    assert pools_of(1) is None
    assert pools_of(MOST_POOLS) is not None
    assert pools_of(MOST_POOLS + 1) is None
    assert make_pools([np.arange(2, 5), np.arange(0)], 5) is None
    assert make_pools([], 5) is None
