"""Trimmed and robust losses against their formulas, and what they do to the gradient."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.denoise import DenoiseConfig, robust, trimmed
from mdrec_jax.objectives.next_item import NextItemConfig, make_objective
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.types import Batch, Encoded
from tests.models.make import SPEC
from tests.objectives.spread import make_batch, spread

BATCH = make_batch()
STATES = np.random.default_rng(2).standard_normal((*BATCH.item.shape, 6)).astype(np.float32)
TABLE = np.random.default_rng(3).standard_normal((48, 6)).astype(np.float32)
POOLS = [np.arange(2 + domain, SPEC.num_items, 3) for domain in range(3)]
POOLS[0] = np.arange(2, SPEC.num_items)
STEP = jnp.asarray(5, jnp.int32)


class Table:
    """The part of a model that the loss calls; its rows are ids."""

    def item_vectors(self, dense: Any, rows: Any, name: str | None) -> jax.Array:
        del dense
        return jnp.asarray(TABLE) if name is None else jnp.asarray(TABLE)[rows[name]]


def cross_entropy() -> np.ndarray:
    """Of every token over all items, for itself."""
    logits = STATES.astype(np.float64) @ TABLE[2 : SPEC.num_items].T
    total = np.log(np.exp(logits).sum(-1))
    return total - np.take_along_axis(logits, np.maximum(BATCH.target - 2, 0)[..., None], -1)[..., 0]


def expected_factor(config: DenoiseConfig, loss: np.ndarray, step: int) -> np.ndarray:
    share = config.trim * min(step / config.trim_steps, 1.0)
    factor = np.zeros_like(loss)
    for domain in range(SPEC.num_domains):
        mine = np.argwhere((BATCH.weight > 0) & (BATCH.target_domain == domain))
        kept = len(mine) - int(share * len(mine))
        by_loss = sorted(mine.tolist(), key=lambda place: loss[tuple(place)])
        for place in by_loss[:kept]:
            factor[tuple(place)] = len(mine) / kept
    return factor


@cache
def loss_of(config: DenoiseConfig, number: int = 5, kind: Any = "softmax", over: Any = "all") -> Any:
    """The loss at step `number`, as a function of the states."""
    whole = NextItemConfig(kind, over, negatives=8, denoise=config)
    objective = make_objective(whole, POOLS, np.ones(SPEC.num_items), len(TABLE))

    def loss(states: jax.Array, batch: Batch) -> jax.Array:
        candidates = objective.candidates(batch, jax.random.key(0), DATA)
        given = Encoded(states, {}, {}), batch, jnp.asarray(batch.weight), candidates
        return objective.loss(Table(), None, candidates.all(), *given, jnp.asarray(number, jnp.int32), DATA)

    return loss


def one_by_one(kind: str, over: str, batch: Batch) -> np.ndarray:
    """The cross entropy of each of the batch's targets, the others without weight."""
    places = np.argwhere(batch.weight > 0)
    alone = []
    for place in places:
        weight = np.zeros_like(batch.weight)
        weight[tuple(place)] = 1.0
        found, _ = spread(loss_of(DenoiseConfig(), 5, kind, over), STATES, dataclasses.replace(batch, weight=weight))
        alone.append(found)
    return np.asarray(alone)


@pytest.mark.parametrize(
    "config",
    [
        DenoiseConfig(trim=0.4, trim_steps=10),
        DenoiseConfig(trim=0.3, trim_steps=2, robust="generalised", power=0.6),
        DenoiseConfig(robust="symmetric", reverse=2.0),
        DenoiseConfig(robust="mixture", noise=0.25),
    ],
    ids=("trimmed", "trimmed and generalised", "symmetric", "mixture"),
)
def test_the_loss_is_its_formula_on_any_number_of_devices(config: DenoiseConfig) -> None:
    each, q = cross_entropy(), config.power
    changed = {
        "none": each,
        "generalised": (1 - np.exp(-each) ** q) / q,
        "symmetric": each + config.reverse * (1 - np.exp(-each)),
        "mixture": -np.log((1 - config.noise) * np.exp(-each) + config.noise / len(POOLS[0])),
    }[config.robust]
    factor = expected_factor(config, each, 5)
    if config.trim:
        assert 0 < (factor > 0).sum() < (BATCH.weight > 0).sum()
    found, gradient = spread(loss_of(config), STATES, BATCH)
    np.testing.assert_allclose(found, (factor * changed).sum(), rtol=1e-5)
    np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), factor > 0)
    other, moved = spread(loss_of(config), STATES, BATCH, devices=8)
    np.testing.assert_allclose(other, found, rtol=1e-5)
    np.testing.assert_allclose(moved, gradient, atol=1e-5 * np.abs(gradient).max())


def test_the_weights_of_a_domain_add_up_to_what_they_were() -> None:
    config = DenoiseConfig(trim=0.5, trim_steps=1)
    domain, real = jnp.asarray(BATCH.target_domain), jnp.asarray(BATCH.weight) > 0

    def kept(loss: jax.Array, batch: Batch) -> jax.Array:
        own, there = jnp.asarray(batch.target_domain).reshape(-1), jnp.asarray(batch.weight).reshape(-1) > 0
        factor = trimmed(config, loss.reshape(-1), own, there, 3, STEP, DATA)
        return jnp.sum(factor * there * (own == 1) + 0.0 * loss.reshape(-1))

    found, _ = spread(kept, STATES[..., 0], BATCH)
    np.testing.assert_allclose(found, (real & (domain == 1)).sum(), rtol=1e-6)


def test_nothing_is_trimmed_at_the_start() -> None:
    found, _ = spread(loss_of(DenoiseConfig(trim=0.9, trim_steps=100), 0), STATES, BATCH)
    np.testing.assert_allclose(found, (cross_entropy() * (BATCH.weight > 0)).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "over"), [("softmax", "target_domain"), ("sampled_softmax", "target_domain"), ("gbce", "all")]
)
def test_every_loss_can_be_denoised(kind: str, over: str) -> None:
    plain, gradient = spread(loss_of(DenoiseConfig(), 0, kind, over), STATES, BATCH)
    same, moved = spread(loss_of(DenoiseConfig(trim=0.5), 0, kind, over), STATES, BATCH)
    np.testing.assert_allclose(same, plain, rtol=1e-5)
    np.testing.assert_allclose(moved, gradient, atol=1e-5 * np.abs(gradient).max())
    less, trimmed = spread(loss_of(DenoiseConfig(trim=0.5), 1000, kind, over), STATES, BATCH)
    assert less < plain
    assert 0.4 < np.any(trimmed != 0, axis=-1).sum() / BATCH.weight.sum() < 0.6


def test_a_mixture_is_over_the_candidates_of_its_pool() -> None:
    config = DenoiseConfig(robust="mixture", noise=0.25)
    for kind, over, sizes in (
        ("softmax", "target_domain", [len(pool) for pool in POOLS]),
        ("sampled_softmax", "target_domain", [8 + 1] * len(POOLS)),
    ):
        for domain, size in enumerate(sizes):
            batch = dataclasses.replace(BATCH, weight=BATCH.weight * (BATCH.target_domain == domain))
            each = one_by_one(kind, over, batch)
            expected = -np.log((1 - config.noise) * np.exp(-each) + config.noise / size)
            found, _ = spread(loss_of(config, 5, kind, over), STATES, batch)
            np.testing.assert_allclose(found, expected.sum(), rtol=1e-5)


def test_losses_that_are_no_cross_entropy_have_no_mixture() -> None:
    with pytest.raises(ConfigError, match=r"loss\.denoise\.robust.*\n.*mixture with gbce"):
        NextItemConfig("gbce", denoise=DenoiseConfig(robust="mixture"))


@pytest.mark.parametrize("kind", ["generalised", "symmetric", "mixture"])
def test_robust_losses_have_the_gradients_of_differences(kind: Any) -> None:
    with jax.enable_x64(True):
        losses = jnp.linspace(0.01, 8.0, 7)
        choices = jnp.full(7, 50.0)
        check_grads(lambda loss: robust(DenoiseConfig(robust=kind), loss, choices), (losses,), order=1, modes=["rev"])


def test_what_a_hopeless_target_can_do_is_bounded() -> None:
    for kind in ("generalised", "mixture"):
        config = DenoiseConfig(robust=kind)
        slope = jax.vmap(jax.grad(lambda loss, config=config: robust(config, loss[None], jnp.full(1, 50.0))[0]))
        low, high = slope(jnp.asarray([0.1, 20.0]))
        assert low > 0.9
        assert high < 0.01


@pytest.mark.parametrize(
    ("field", "value"),
    [("trim", 1.0), ("trim", -0.1), ("trim_steps", 0), ("power", 0.0), ("reverse", 0.0), ("noise", 0.0)],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"loss\.denoise\.{field}"):
        DenoiseConfig(**{field: value})
