"""Erasure: no linear reading of what is left foretells the other code, and the rest of the code stays."""

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.models.layers.erasure import PACE, Erasure, closed_form, covariance, moments

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


def worked_out(z: np.ndarray, x: np.ndarray, parts: int = 4) -> Erasure:
    """One whose map is the closed form of unequal parts of the rows; each has rows that do not count."""
    erasure = Erasure(jax.random.key(0), RANK, WIDTH)
    cuts = np.linspace(0, np.sqrt(len(z)), parts + 1)[1:-1] ** 2
    pieces = zip(np.split(z, cuts.astype(int)), np.split(x, cuts.astype(int)), strict=True)
    found = [moments(*padded(*piece)) for piece in pieces]
    erasure.map.kernel.set_value(jnp.asarray(closed_form(covariance(found), RANK)))
    return erasure


def padded(z: np.ndarray, x: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    z, x = (np.pad(part, ((0, 9), (0, 0)), constant_values=100.0) for part in (z, x))
    return jnp.asarray(z), jnp.asarray(x), jnp.arange(len(z)) < len(z) - 9


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


def test_worked_out_at_once_nothing_is_left_to_any_linear_reading() -> None:
    """Of z as it is and of a direction of it that x hardly has; what does not go with z stays."""
    weak = OWN + Z @ (np.array([3.0, 1.0, 3e-3], np.float32)[:, None] * RNG.normal(size=(RANK, WIDTH)))
    for x in (X, weak.astype(np.float32)):
        left = np.asarray(worked_out(Z, x)(jnp.asarray(x)), np.float64)
        z, centred = Z - Z.mean(0), left - left.mean(0)
        correlation = z.T @ centred / len(z) / z.std(0)[:, None]
        assert np.abs(correlation).max() < 2e-5
        values = np.linalg.svd(left, compute_uv=False)
        assert (values < 1e-4 * values[0]).sum() == RANK
        others = np.linalg.svd((x - x.mean(0)).T @ z)[0][:, RANK:]
        np.testing.assert_allclose(left @ others, x @ others, atol=1e-4 * np.abs(x).max())


def test_the_closed_form_is_where_the_fit_leads() -> None:
    """It lies where the loss is least, so that training goes on from it."""
    erasure = worked_out(Z, X)
    given = jnp.asarray(Z), jnp.asarray(X), REAL
    gradient = jax.grad(lambda e: e.misfit(*given))(erasure).map.kernel.get_value()
    before = jax.grad(lambda e: e.misfit(*given))(Erasure(jax.random.key(0), RANK, WIDTH)).map.kernel.get_value()
    assert np.abs(gradient).max() < 1e-3 * np.abs(before).max()
    np.testing.assert_allclose(erasure.misfit(*given), fitted().misfit(*given), rtol=1e-3)


def test_codes_that_do_not_vary_give_a_finite_map() -> None:
    kernel = worked_out(np.full_like(Z, 5.0), np.full_like(X, 3.0)).map.kernel.get_value()
    assert np.isfinite(kernel).all()


def test_the_fit_moves_the_map_alone_and_the_projection_moves_the_code_alone() -> None:
    erasure = Erasure(jax.random.key(0), RANK, WIDTH)
    by_code = jax.grad(lambda x: erasure.misfit(jnp.asarray(Z), x, REAL))(jnp.asarray(X))
    by_map = jax.grad(lambda e: jnp.square(e(jnp.asarray(X))).sum())(erasure)
    assert np.abs(by_code).max() == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(by_map))
