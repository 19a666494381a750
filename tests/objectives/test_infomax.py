"""Infomax against its formula, one segment at a time, and the corruption that it is told from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives.infomax import InfomaxConfig, corrupted, infomax_loss
from mdrec_jax.parallel.mesh import DATA, MeshConfig, make_mesh
from mdrec_jax.types import Batch, Rows
from tests.models.make import SPEC
from tests.objectives.spread import make_batch, spread

BATCH = make_batch()
OWN, MIXED, FALSE = np.random.default_rng(5).standard_normal((3, *BATCH.item.shape, 4)).astype(np.float32)


def loss(states: tuple[jax.Array, ...], batch: Batch) -> jax.Array:
    return infomax_loss(batch, *states, DATA)


def expected_loss(batch: Batch) -> float:
    losses = []
    for row, number in np.ndindex(batch.segment_user.shape):
        targets = (batch.segment[row] == number + 1) & (batch.weight[row] > 0)
        known = targets & (batch.previous_in_target_domain[row] >= 0)
        if not known.any():
            continue
        domain = batch.target_domain[row, np.flatnonzero(known)[-1]]
        here = known & (batch.target_domain[row] == domain)
        elsewhere = targets & (batch.target_domain[row] != domain)
        if elsewhere.any():
            d = OWN[row, here].mean(0)
            true, false = (d @ states[row, elsewhere].mean(0) for states in (MIXED, FALSE))
            losses.append(np.log1p(np.exp(-true)) + np.log1p(np.exp(false)))
    assert len(losses) > 7
    return float(np.mean(losses))


def test_the_loss_is_its_formula_on_any_number_of_devices() -> None:
    value, gradient = spread(loss, (OWN, MIXED, FALSE), BATCH)
    np.testing.assert_allclose(value, expected_loss(BATCH), rtol=1e-5)
    other, moved = spread(loss, (OWN, MIXED, FALSE), BATCH, devices=8)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(np.stack(moved), np.stack(gradient), atol=1e-6)


def test_a_segment_without_a_known_target_takes_no_part() -> None:
    """Its other targets are asked for in several domains, but none has an earlier event in its own; of two others the
    first target alone has one, in the row's first column for the one of them."""
    previous = BATCH.previous_in_target_domain.copy()
    previous[0, BATCH.segment[0] == 2] = -1
    first = np.flatnonzero((BATCH.segment[4] == 3) & (BATCH.weight[4] > 0))
    previous[4, first[1:]] = -1
    previous[4, first[0]] = 0
    previous[1, BATCH.segment[1] == 1] = -1
    previous[1, 0] = 0
    batch = dataclasses.replace(BATCH, previous_in_target_domain=previous)
    value, _ = spread(loss, (OWN, MIXED, FALSE), batch)
    np.testing.assert_allclose(value, expected_loss(batch), rtol=1e-5)


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


def test_every_event_of_a_domain_is_drawn_equally_often_and_for_each_token_anew() -> None:
    places = np.arange(BATCH.item.size, dtype=np.int32).reshape(BATCH.item.shape)

    def sources(keys: jax.Array, batch: Batch) -> jax.Array:
        rows = {"item": Rows(jnp.zeros((2, 2)), {"input": jnp.asarray(places)})}
        draw = lambda key: corrupted(batch, rows, key, DATA)[1]["item"].index["input"]  # noqa: E731
        return jax.vmap(draw)(keys)

    mesh, number = make_mesh(MeshConfig(1)), 500
    drawing = jax.shard_map(sources, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False)
    drawn = np.asarray(jax.jit(drawing)(jax.random.split(jax.random.key(8), number), BATCH))
    real = BATCH.segment > 0
    np.testing.assert_array_equal(drawn[:, ~real], np.broadcast_to(places[~real], (number, (~real).sum())))
    for domain in range(SPEC.num_domains):
        mine = real & (BATCH.domain == domain)
        times = np.bincount(drawn[:, mine].ravel(), minlength=places.size)
        assert times.sum() == times[places[mine]].sum()
        np.testing.assert_allclose(times[places[mine]], number, atol=6 * np.sqrt(number))
        # Tokens, rows and keys draw apart: two of them agree as often as chance has it.
        same = (drawn[:, mine][:, 1:] == drawn[:, mine][:, :-1]).mean(), (drawn[1:, mine] == drawn[:-1, mine]).mean()
        np.testing.assert_allclose(same, 1 / mine.sum(), atol=0.01)


def test_a_weight_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.infomax\.weight"):
        InfomaxConfig(weight=-1.0)
