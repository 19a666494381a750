"""Each formula of disentanglement against itself written out in numpy, and what it must say of plain cases."""

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.objectives import disentangle as formulas

mmd = jax.jit(formulas.mmd, static_argnames="domains")

N, D = 12, 5
RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.normal(size=(N, D)).astype(np.float32) for _ in range(2))
REAL = np.array([True] * 9 + [False] * 3)
DOMAIN = np.array([0, 1, 2, 0, 0, 1, 2, 1, 0, 0, 1, 2], np.int32)


def test_a_reversed_gradient_has_the_other_sign() -> None:
    x, goal = jnp.asarray(FIRST), jnp.asarray(SECOND)
    strength = jnp.arange(N) / 10.0
    value, gradient = jax.value_and_grad(lambda x: (formulas.gradient_reversal(x, strength) * goal).sum())(x)
    np.testing.assert_allclose(value, (x * goal).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, -strength[:, None] * goal, rtol=1e-6)


def test_mmd_compares_each_domain_with_the_others() -> None:
    distance = np.square(FIRST[:, None] - FIRST[None]).sum(-1)
    scale = distance[np.ix_(REAL, REAL)].mean()
    gram = np.mean([np.exp(-distance / (w * scale)) for w in formulas.WIDTHS], axis=0)
    expected = []
    for domain in range(3):
        here, there = REAL & (domain == DOMAIN), REAL & (domain != DOMAIN)
        terms = [gram[np.ix_(a, b)].mean() for a, b in ((here, here), (there, there), (here, there))]
        expected.append(terms[0] + terms[1] - 2 * terms[2])
    np.testing.assert_allclose(mmd(FIRST, DOMAIN, REAL, 3), np.mean(expected), rtol=1e-4)
    # A domain without a row is no part of the mean.
    np.testing.assert_allclose(mmd(FIRST, DOMAIN, REAL, 4), np.mean(expected), rtol=1e-4)


def test_rows_that_do_not_count_have_no_influence() -> None:
    moved = np.where(REAL[:, None], FIRST, 7.0)
    np.testing.assert_allclose(mmd(moved, DOMAIN, REAL, 3), mmd(FIRST, DOMAIN, REAL, 3), rtol=1e-5)
    gradient = jax.grad(mmd)(jnp.asarray(FIRST), DOMAIN, REAL, 3)
    np.testing.assert_array_equal(gradient[~REAL], 0.0)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(mmd(FIRST, DOMAIN, np.zeros(N, bool), 3), 0.0, atol=1e-6)
