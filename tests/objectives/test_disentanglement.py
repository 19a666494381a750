"""Each formula of disentanglement against itself written out in numpy, and what it must say of plain cases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.objectives import disentanglement as formulas

info_nce = jax.jit(formulas.info_nce)
mmd = jax.jit(formulas.mmd, static_argnames="domains")
hsic = jax.jit(formulas.hsic, static_argnames="kernel")
club = jax.jit(formulas.club)

N, D = 12, 5
RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.normal(size=(N, D)).astype(np.float32) for _ in range(2))
REAL = np.array([True] * 9 + [False] * 3)
USER = np.array([0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8], np.int32)
DOMAIN = np.array([0, 1, 2, 0, 0, 1, 2, 1, 0, 0, 1, 2], np.int32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_reversed_gradient_has_the_other_sign() -> None:
    x, goal = jnp.asarray(FIRST), jnp.asarray(SECOND)
    strength = jnp.arange(N) / 10.0
    value, gradient = jax.value_and_grad(lambda x: (formulas.gradient_reversal(x, strength) * goal).sum())(x)
    np.testing.assert_allclose(value, (x * goal).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, -strength[:, None] * goal, rtol=1e-6)


def test_info_nce_leaves_the_users_other_rows_out() -> None:
    cosine, total = unit(FIRST) @ unit(SECOND).T / 0.5, 0.0
    for i in np.flatnonzero(REAL):
        others = [j for j in np.flatnonzero(REAL) if USER[j] != USER[i]]
        for logits in (cosine, cosine.T):
            total += np.log(np.exp(logits[i, [i, *others]]).sum()) - logits[i, i]
    found = info_nce(FIRST, SECOND, USER, REAL, 0.5)
    np.testing.assert_allclose(found, total / (2 * REAL.sum()), rtol=1e-5)


def test_mmd_compares_each_domain_with_the_others() -> None:
    distance = np.square(FIRST[:, None] - FIRST[None]).sum(-1)
    scale = distance[np.ix_(REAL, REAL)].mean()
    gram = np.mean([np.exp(-distance / (w * scale)) for w in (0.25, 0.5, 1.0, 2.0, 4.0)], axis=0)
    expected = []
    for domain in range(3):
        here, there = REAL & (domain == DOMAIN), REAL & (domain != DOMAIN)
        terms = [gram[np.ix_(a, b)].mean() for a, b in ((here, here), (there, there), (here, there))]
        expected.append(terms[0] + terms[1] - 2 * terms[2])
    np.testing.assert_allclose(mmd(FIRST, DOMAIN, REAL, 3), np.mean(expected), rtol=1e-4)
    # A domain without a row is no part of the mean.
    np.testing.assert_allclose(mmd(FIRST, DOMAIN, REAL, 4), np.mean(expected), rtol=1e-4)


def test_orthogonality_is_the_squared_cosine() -> None:
    expected = np.square((unit(FIRST) * unit(SECOND)).sum(-1))
    np.testing.assert_allclose(jax.jit(formulas.orthogonality)(FIRST, SECOND), expected, rtol=1e-5, atol=1e-6)


def test_hsic_is_the_trace_of_centred_kernels_over_its_value_for_equal_codes() -> None:
    first, second, number = FIRST[REAL], SECOND[REAL], int(REAL.sum())
    centre = np.eye(number) - 1 / number

    def gaussian(x: np.ndarray) -> np.ndarray:
        distance = np.square(x[:, None] - x[None]).sum(-1)
        return np.exp(-distance / distance.mean())

    kernels = {"linear": lambda x: x @ x.T, "gaussian": gaussian}
    for name, kernel in kernels.items():
        k, m = (centre @ kernel(x) @ centre for x in (first, second))
        expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
        np.testing.assert_allclose(hsic(FIRST, SECOND, REAL, name), expected, rtol=1e-4)
        np.testing.assert_allclose(hsic(FIRST, 3 * FIRST, REAL, name), 1.0, rtol=1e-4)


def test_club_is_the_gap_between_a_rows_own_density_and_everyones() -> None:
    mean, spread = FIRST, 0.3 * SECOND
    other = np.roll(FIRST, 1, axis=0)

    def density(i: int, j: int) -> float:
        return float(-0.5 * (np.square(other[j] - mean[i]) / np.exp(spread[i]) + spread[i]).sum())

    rows = np.flatnonzero(REAL)
    own = np.mean([density(i, i) for i in rows])
    everyones = np.mean([density(i, j) for i, j in itertools.product(rows, rows)])
    np.testing.assert_allclose(club(mean, spread, other, REAL), own - everyones, rtol=1e-5)
    likelihood = jax.jit(formulas.gaussian_log_likelihood)(mean, spread, other)
    np.testing.assert_allclose(likelihood, [density(i, i) for i in range(N)], rtol=1e-5)


def test_the_divergence_is_that_of_the_integral() -> None:
    mean, log_variance = 0.7, -0.4
    x = np.linspace(-12, 12, 20001)
    p = np.exp(-np.square(x - mean) / (2 * np.exp(log_variance))) / np.sqrt(2 * np.pi * np.exp(log_variance))
    q = np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)
    expected = np.trapezoid(p * np.log(np.maximum(p, 1e-300) / q), x)
    found = jax.jit(formulas.gaussian_kl)(jnp.full((1, 2), mean), jnp.full((1, 2), log_variance))
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)


BATCHWISE = {
    "info_nce": lambda a, b, real: info_nce(a, b, USER, real, 0.5),
    "mmd": lambda a, b, real: mmd(a + b, DOMAIN, real, 3),
    "hsic": lambda a, b, real: hsic(a, b, real, "linear"),
    "gaussian hsic": lambda a, b, real: hsic(a, b, real, "gaussian"),
    "club": lambda a, b, real: club(a, 0.1 * a, b, real),
}


@pytest.mark.parametrize("name", BATCHWISE)
def test_rows_that_do_not_count_have_no_influence(name: str) -> None:
    value = BATCHWISE[name]
    moved = [x.copy() for x in (FIRST, SECOND)]
    for x in moved:
        x[~REAL] = 7.0
    np.testing.assert_allclose(value(*moved, REAL), value(FIRST, SECOND, REAL), rtol=1e-5)
    gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.asarray(REAL))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[~REAL], 0.0)
        assert np.isfinite(gradient).all()
    nobody = np.zeros(N, bool)
    np.testing.assert_allclose(value(FIRST, SECOND, nobody), 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["info_nce", "hsic", "club"])
def test_gradients_are_those_of_the_value(name: str) -> None:
    with jax.enable_x64(True):
        a, b = jnp.asarray(FIRST, jnp.float64), jnp.asarray(SECOND, jnp.float64)
        check_grads(lambda a, b: BATCHWISE[name](a, b, jnp.asarray(REAL)), (a, b), order=1, modes=["rev"], rtol=1e-4)
