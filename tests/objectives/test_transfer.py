"""Weights of the domains by what each gains from the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.transfer import TransferConfig, domain_counts, domain_means, domain_weights
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.types import Batch
from tests.objectives.spread import DEVICES, make_batch, spread

BATCH = make_batch()
LOSS = np.random.default_rng(4).random(BATCH.item.shape).astype(np.float32)
POWERS = np.asarray([1.0, 10.0, 100.0], np.float32)


def means(loss: jax.Array, batch: Batch) -> jax.Array:
    """The domains' means and numbers as one number, an equal part of it on every device."""
    domain, real = jnp.asarray(batch.target_domain).reshape(-1), jnp.asarray(batch.weight).reshape(-1) > 0
    found = domain_means(jax.lax.stop_gradient(loss).reshape(-1), domain, real, 3, DEVICES)
    found = found + 1000.0 * domain_counts(domain, real, 3, DEVICES)
    return (found * POWERS).sum() / jax.lax.axis_size(DATA) + 0.0 * loss.sum()


@pytest.mark.parametrize("devices", [1, 8])
def test_losses_are_averaged_by_domain_over_the_whole_batch(devices: int) -> None:
    masks = [(BATCH.weight > 0) & (BATCH.target_domain == domain) for domain in range(3)]
    expected = [LOSS[mask].mean() + 1000 * mask.sum() for mask in masks]
    found, _ = spread(means, LOSS, BATCH, devices=devices)
    np.testing.assert_allclose(found, POWERS @ expected, rtol=1e-5)


def test_weights_are_a_softmax_of_the_gains_and_keep_the_sum() -> None:
    gain, targets = np.asarray([0.5, -0.2, 0.1]), np.asarray([40.0, 10.0, 50.0])
    raw = np.exp(2.0 * gain)
    expected = raw * targets.sum() / (raw @ targets)
    found = domain_weights(TransferConfig(sharpness=2.0), jnp.asarray(gain), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found @ targets, targets.sum(), rtol=1e-6)
    assert found[1] < found[2] < found[0]


def test_without_sharpness_all_domains_weigh_the_same_and_one_without_targets_nothing() -> None:
    found = domain_weights(TransferConfig(sharpness=0.0), jnp.asarray([3.0, -1.0, 9.0]), jnp.asarray([7.0, 5.0, 0.0]))
    np.testing.assert_allclose(found, [1.0, 1.0, 0.0], rtol=1e-6)


def test_gradients_are_those_of_differences_in_float64() -> None:
    with jax.enable_x64(True):
        targets = jnp.asarray([4.0, 1.0, 5.0])
        gain = jnp.asarray([0.5, -0.2, 0.1])
        check_grads(lambda gain: domain_weights(TransferConfig(), gain, targets), (gain,), order=1, modes=["rev"])


@pytest.mark.parametrize(("field", "value"), [("weight", -1.0), ("sharpness", float("inf"))])
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.transfer\.{field}"):
        TransferConfig(**{field: value})
