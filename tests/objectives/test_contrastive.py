"""The contrast of users' states against its formulas, worked out one anchor at a time."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError
from mdrec_jax.objectives import contrastive
from mdrec_jax.objectives.contrastive import ContrastiveConfig, inter_pairs, intra_pairs, pair_loss
from mdrec_jax.types import Batch
from tests.objectives.spread import DEVICES, make_batch, spread

BATCH = make_batch()
WIDTH = 6
VIEWS = np.random.default_rng(1).standard_normal((2, *BATCH.item.shape, WIDTH)).astype(np.float32)
FORMS = ("decoupled", "infonce", "robust")


def places(batch: Batch) -> list[tuple[int, int, list[int]]]:
    """Row, user and columns with a target with an earlier event in its domain, of each segment."""
    found = []
    for row, number in np.ndindex(batch.segment_user.shape):
        targets = (batch.segment[row] == number + 1) & (batch.weight[row] > 0)
        targets &= batch.previous_in_target_domain[row] >= 0
        found.append((row, batch.segment_user[row, number], np.flatnonzero(targets).tolist()))
    return found


def pairs_of(kind: str) -> list[tuple[int, Any, int, Any, int]]:
    """User, state and domain, state and domain of each pair."""
    pairs = []
    for row, user, columns in places(BATCH):
        if not columns:
            continue
        last = columns[-1]
        domain = BATCH.target_domain[row, last]
        if kind == "intra":
            pairs.append((user, VIEWS[0][row, last], domain, VIEWS[1][row, last], domain))
            continue
        others = [column for column in columns if BATCH.target_domain[row, column] != domain]
        if others:
            other = others[-1]
            pairs.append((user, VIEWS[1][row, last], domain, VIEWS[1][row, other], BATCH.target_domain[row, other]))
    return pairs


def expected_loss(config: ContrastiveConfig, pairs: list) -> float:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / config.temperature

    states = [(user, state, domain) for user, *sides in pairs for state, domain in (sides[:2], sides[2:])]
    states = states[: contrastive.NEGATIVES]
    losses = []
    for user, left, left_domain, right, right_domain in pairs:
        for anchor, positive, domain in ((left, right, right_domain), (right, left, left_domain)):
            scores = [cosine(anchor, state) for other, state, d in states if other != user and d == domain]
            if not scores:
                continue
            own, against = cosine(anchor, positive), np.exp(scores).sum()
            together, q = against + np.exp(own), contrastive.ROBUST_POWER
            forms = {
                "decoupled": np.log(against) - own,
                "infonce": np.log(together) - own,
                "robust": -np.exp(q * own) / q + (contrastive.ROBUST_SHARE * together) ** q / q,
            }
            losses.append(forms[config.form])
    return float(np.mean(losses))


@cache
def loss_of(config: ContrastiveConfig, kind: str) -> Any:
    def loss(views: tuple[jax.Array, jax.Array], batch: Batch) -> jax.Array:
        pairs = intra_pairs(batch, *views) if kind == "intra" else inter_pairs(batch, views[1])
        return pair_loss(config, pairs, DEVICES)

    return loss


@pytest.mark.parametrize("kind", ["intra", "inter"])
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_its_formula(form: Any, kind: str) -> None:
    config = ContrastiveConfig(form=form, temperature=0.3)
    pairs = pairs_of(kind)
    assert len(pairs) > 7
    found, _ = spread(loss_of(config, kind), tuple(VIEWS), BATCH)
    np.testing.assert_allclose(found, expected_loss(config, pairs), rtol=1e-5)


def test_only_so_many_states_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "NEGATIVES", 13)
    config = ContrastiveConfig(temperature=0.7)
    found, _ = spread(loss_of(config, "inter"), tuple(VIEWS), BATCH)
    np.testing.assert_allclose(found, expected_loss(config, pairs_of("inter")), rtol=1e-5)


@pytest.mark.parametrize("kind", ["intra", "inter"])
def test_value_and_gradient_do_not_depend_on_the_devices(kind: str) -> None:
    loss = loss_of(ContrastiveConfig(), kind)
    value, gradient = spread(loss, tuple(VIEWS), BATCH)
    other, moved = spread(loss, tuple(VIEWS), BATCH, devices=8)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(np.stack(moved), np.stack(gradient), atol=1e-6)


@pytest.mark.parametrize("form", ["decoupled", "robust"])
def test_gradients_are_those_of_differences_in_float64(form: Any) -> None:
    loss = loss_of(ContrastiveConfig(form=form, temperature=0.5), "intra")
    with jax.enable_x64(True):
        views = tuple(jnp.asarray(VIEWS, jnp.float64))
        check_grads(lambda *views: spread(loss, views, BATCH)[0], views, order=1, modes=["rev"], rtol=1e-4)


def test_a_user_alone_has_nothing_to_be_told_from() -> None:
    alone = dataclasses.replace(BATCH, segment_user=np.where(BATCH.segment_user >= 0, 3, -1))
    value, gradient = spread(loss_of(ContrastiveConfig(), "intra"), tuple(VIEWS), alone)
    assert value == 0
    assert not np.any(np.stack(gradient))


def test_padding_and_states_that_are_not_asked_for_take_no_part() -> None:
    _, gradient = spread(loss_of(ContrastiveConfig(), "inter"), tuple(VIEWS), BATCH)
    moved = np.any(np.stack(gradient) != 0, axis=(0, -1))
    wanted = np.zeros_like(moved)
    for row, _, columns in places(BATCH):
        domains = BATCH.target_domain[row, columns]
        others = [c for c, d in zip(columns, domains, strict=True) if d != domains[-1]]
        if others:
            wanted[row, [columns[-1], others[-1]]] = True
    np.testing.assert_array_equal(moved, wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [("intra", -1.0), ("inter", float("nan")), ("temperature", 0.0)],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.contrastive\.{field}"):
        ContrastiveConfig(**{field: value})


def test_a_temperature_whose_exponentials_overflow_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        ContrastiveConfig(form="robust", temperature=0.005)
