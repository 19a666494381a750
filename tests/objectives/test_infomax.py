"""Infomax against its formula, one segment at a time, and the corruption that it is told from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.infomax import InfomaxConfig, corrupted, infomax_loss
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.types import Batch, Rows
from tests.models.make import SPEC
from tests.objectives.spread import make_batch, spread

BATCH = make_batch()
OWN, MIXED, FALSE = np.random.default_rng(5).standard_normal((3, *BATCH.item.shape, 4)).astype(np.float32)


def loss(states: tuple[jax.Array, ...], batch: Batch) -> jax.Array:
    return infomax_loss(batch, *states, DATA)


def expected_loss() -> float:
    losses = []
    for row, number in np.ndindex(BATCH.segment_user.shape):
        targets = (BATCH.segment[row] == number + 1) & (BATCH.weight[row] > 0)
        known = targets & (BATCH.previous_in_target_domain[row] >= 0)
        if not known.any():
            continue
        domain = BATCH.target_domain[row, np.flatnonzero(known)[-1]]
        here = known & (BATCH.target_domain[row] == domain)
        elsewhere = targets & (BATCH.target_domain[row] != domain)
        if elsewhere.any():
            d = OWN[row, here].mean(0)
            true, false = (d @ states[row, elsewhere].mean(0) for states in (MIXED, FALSE))
            losses.append(np.log1p(np.exp(-true)) + np.log1p(np.exp(false)))
    assert len(losses) > 7
    return float(np.mean(losses))


def test_the_loss_is_its_formula_on_any_number_of_devices() -> None:
    value, gradient = spread(loss, (OWN, MIXED, FALSE), BATCH)
    np.testing.assert_allclose(value, expected_loss(), rtol=1e-5)
    other, moved = spread(loss, (OWN, MIXED, FALSE), BATCH, devices=8)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(np.stack(moved), np.stack(gradient), atol=1e-6)


def test_gradients_are_those_of_differences_in_float64() -> None:
    with jax.enable_x64(True):
        states = tuple(jnp.asarray(x, jnp.float64) for x in (OWN, MIXED, FALSE))
        check_grads(lambda *states: spread(loss, states, BATCH)[0], states, order=1, modes=["rev"], rtol=1e-4)


def test_items_are_replaced_by_others_of_their_domain_on_any_number_of_devices() -> None:
    def marked(x: jax.Array, batch: Batch) -> jax.Array:
        """Its gradient with respect to x is what the items, and the index of their rows, become."""
        index = {"input": jnp.asarray(batch.item), "negative": jnp.arange(7)}
        false, moved = corrupted(batch, {"item": Rows(jnp.zeros((48, 2)), index)}, jax.random.key(3), DATA)
        assert moved["item"].index["negative"] is index["negative"]
        return (x * jnp.stack([false.item, moved["item"].index["input"]], axis=-1).astype(jnp.float32)).sum()

    empty = np.zeros((*BATCH.item.shape, 2), np.float32)
    one, four = (spread(marked, empty, BATCH, devices=devices)[1] for devices in (1, 4))
    np.testing.assert_array_equal(one, four)
    item, index = np.asarray(one[..., 0], int), np.asarray(one[..., 1], int)
    real = BATCH.segment > 0
    np.testing.assert_array_equal(item[~real], 0)
    np.testing.assert_array_equal(item[real], index[real])
    np.testing.assert_array_equal(item[real] % SPEC.num_domains, BATCH.domain[real])
    assert set(item[real]) <= set(BATCH.item[real])
    assert (item[real] != BATCH.item[real]).mean() > 0.7


def test_a_weight_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.infomax\.weight"):
        InfomaxConfig(weight=-1.0)
