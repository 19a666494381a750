"""Rotary positions: scores depend on how far apart two tokens stand, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.attention import rotary_angles, rotate
from tests.models.make import built, pack, random_sequences, relative_error, states


def rotated_scores(q: jax.Array, k: jax.Array, positions: list[int]) -> jax.Array:
    """q_t k_s for every pair of the same two vectors at `positions`."""
    position = jnp.asarray([positions])
    rotation = rotary_angles(jnp.pad(position, ((0, 0), (0, 64 - len(positions)))), q.shape[-1])
    rotation = tuple(part[:, : len(positions)] for part in rotation)
    tiled = (jnp.tile(x, (1, len(positions), 1, 1)) for x in (q, k))
    turned_q, turned_k = (rotate(x, rotation) for x in tiled)
    return jnp.einsum("rthk,rshk->ts", turned_q, turned_k)


def test_scores_depend_on_the_difference_of_positions() -> None:
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    near = rotated_scores(q, k, [0, 3, 10])
    far = rotated_scores(q, k, [40, 43, 50])
    np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-4)
    assert not np.allclose(near[1, 0], near[2, 0])
    assert not np.allclose(near[1, 0], near[0, 1])


def test_differences_far_out_are_those_at_the_start() -> None:
    cos, sin = (np.asarray(part[0, :, 0]) for part in rotary_angles(jnp.arange(20_000)[None], 16))
    frequency = 10_000.0 ** (-np.arange(0, 16, 2) / 16)
    turned = cos[19_900:] * cos[19_900] + sin[19_900:] * sin[19_900]
    np.testing.assert_allclose(turned, np.cos(np.arange(100)[:, None] * frequency), atol=3e-7)


def test_turning_keeps_lengths_and_the_first_position_as_it_is() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    position = jnp.tile(jnp.arange(5)[None], (2, 1))
    turned = rotate(x, rotary_angles(position, 8))
    np.testing.assert_allclose((turned**2).sum(-1), (x**2).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_without_position_embeddings_the_order_still_matters_by_rotation_alone() -> None:
    user = random_sequences(0, [10])[0]
    swapped = [user[1], user[0], *user[2:]]
    for positions, sees_order in (("rotary", True), ("none", False)):
        model, params = built(
            RecommenderConfig(dim=8, layers=1, attention_window=16, init_scale=0.5, positions=positions)
        )
        one, other = (states(model, params, pack([[s]]))[0, 9] for s in (user, swapped))
        assert (relative_error(one, other) > 1e-3) == sees_order
