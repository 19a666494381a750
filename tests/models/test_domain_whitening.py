"""A whitened code says nothing of its domain up to second moments, and is itself in its domain's terms."""

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.models.layers.domain_whitening import DomainWhitening, fit_whitening

DOMAINS, WIDTH, ROWS = 3, 6, 12_000
RNG = np.random.default_rng(0)
DOMAIN = RNG.integers(0, DOMAINS - 1, ROWS)
"""The last domain has no row."""
MAPS = RNG.normal(size=(DOMAINS, WIDTH, WIDTH)) + 2 * np.eye(WIDTH)
Y = np.einsum("ne,nef->nf", RNG.normal(size=(ROWS, WIDTH)), MAPS[DOMAIN]) + 5 * DOMAIN[:, None]


def made(y: np.ndarray) -> DomainWhitening:
    whitening = DomainWhitening(WIDTH, DOMAINS)
    for name, value in fit_whitening(y, DOMAIN, DOMAINS).items():
        getattr(whitening, name).set_value(jnp.asarray(value))
    return whitening


def placed(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x)[None]


def test_every_domain_has_one_mean_and_one_covariance() -> None:
    z = np.asarray(made(Y)(placed(Y.astype(np.float32)), placed(DOMAIN))[0])
    for domain in range(DOMAINS - 1):
        mine = z[domain == DOMAIN]
        np.testing.assert_allclose(mine.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(mine.T), np.eye(WIDTH), atol=0.02)


def test_in_its_own_domains_terms_a_code_is_itself_and_in_anothers_it_is_moved_there() -> None:
    whitening, y = made(Y), placed(Y.astype(np.float32))
    z = whitening(y, placed(DOMAIN))
    np.testing.assert_allclose(whitening.recoloured(z, placed(DOMAIN)), y, rtol=1e-4, atol=1e-4)
    other = np.asarray(whitening.recoloured(z, placed(1 - DOMAIN))[0])
    for domain in range(DOMAINS - 1):
        there = Y[1 - domain == DOMAIN]
        np.testing.assert_allclose(other[domain == DOMAIN].mean(0), there.mean(0), atol=1e-3)
        np.testing.assert_allclose(np.cov(other[domain == DOMAIN].T), np.cov(there.T), rtol=0.1, atol=0.3)


def test_a_domain_without_rows_and_codes_that_do_not_vary_have_finite_maps() -> None:
    for y in (Y, np.full_like(Y, 3.0)):
        assert all(np.isfinite(value).all() for value in fit_whitening(y, DOMAIN, DOMAINS).values())


def test_until_statistics_are_worked_out_the_code_is_as_it_was() -> None:
    whitening, y = DomainWhitening(WIDTH, DOMAINS), placed(Y.astype(np.float32))
    np.testing.assert_allclose(whitening(y, placed(DOMAIN)), y, rtol=1e-6)
    np.testing.assert_allclose(whitening.recoloured(y, placed(DOMAIN)), y, rtol=1e-6)


def test_statistics_are_constants() -> None:
    whitening, y = made(Y), placed(Y.astype(np.float32))
    gradient = jax.grad(lambda s: jnp.square(s.recoloured(s(y, placed(DOMAIN)), placed(1 - DOMAIN))).sum())(whitening)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient))
