"""Erasure: no linear reading of what is left foretells the other code, and the rest of the code stays."""

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.models.erasure import PACE, Erasure

RNG = np.random.default_rng(0)
ROWS, RANK, WIDTH = 4000, 3, 12
Z = 5 + RNG.normal(size=(ROWS, RANK)).astype(np.float32)
REAL = jnp.ones(ROWS, bool)
OWN = RNG.normal(size=(ROWS, WIDTH)).astype(np.float32)
X = OWN + 2.0 * Z @ RNG.normal(size=(RANK, WIDTH)).astype(np.float32)


def fitted() -> Erasure:
    """One whose map is where its own loss leads."""
    erasure = Erasure(jax.random.key(0), RANK, WIDTH)

    @jax.jit
    def step(erasure: Erasure) -> Erasure:
        gradient = jax.grad(lambda e: e.misfit(jnp.asarray(Z), jnp.asarray(X), REAL))(erasure)
        return jax.tree.map(lambda p, g: p - 0.4 / PACE**2 * g, erasure, gradient)

    for _ in range(60):
        erasure = step(erasure)
    return erasure


def explained(x: np.ndarray, z: np.ndarray) -> float:
    x, z = x - x.mean(0), z - z.mean(0)
    left = z - x @ np.linalg.lstsq(x, z, rcond=1e-3)[0]
    return float(1 - np.square(left).sum() / np.square(z).sum())


def test_what_is_left_foretells_nothing_of_the_other_code() -> None:
    left = np.asarray(fitted()(jnp.asarray(X)))
    assert explained(X, Z) > 0.9
    assert explained(left, Z) < 0.01


def test_as_many_directions_go_as_the_other_code_is_wide() -> None:
    values = np.linalg.svd(np.asarray(fitted()(jnp.asarray(X))), compute_uv=False)
    assert (values < 0.02 * values[0]).sum() == RANK


def test_the_fit_moves_the_map_alone_and_the_projection_moves_the_code_alone() -> None:
    erasure = Erasure(jax.random.key(0), RANK, WIDTH)
    by_code = jax.grad(lambda x: erasure.misfit(jnp.asarray(Z), x, REAL))(jnp.asarray(X))
    by_map = jax.grad(lambda e: jnp.square(e(jnp.asarray(X))).sum())(erasure)
    assert np.abs(by_code).max() == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(by_map))
