"""Routers and the experts behind them: who is chosen, what it costs, and that no token is left out."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels import grouped_ffn

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model
from mdrec_jax.models.encoded import Encoded, Trace, trace_details, trace_sums
from mdrec_jax.models.layers.context import DAY, GAP_NAMES, HOUR, WEEK, context_of, gap_bucket
from mdrec_jax.models.layers.experts import Experts, ExpertsConfig
from mdrec_jax.models.layers.router import Routed, Router
from mdrec_jax.objectives import routers
from mdrec_jax.objectives.routers import BALANCE, Z, router_loss, router_losses
from mdrec_jax.types import Batch, Params
from tests.models.make import FLAGSHIP, PARTS, SPEC, built, pack, random_sequences, rows_of

SEQUENCES = random_sequences(2, [5, 7, 3, 9, 1])
BATCH = pack([SEQUENCES[:3], SEQUENCES[3:]], 16)
SEGMENT = jnp.asarray(BATCH.segment)
REAL = BATCH.segment > 0
X = jax.random.normal(jax.random.key(1), (*BATCH.item.shape, 8))


def layer_of(config: ExpertsConfig) -> Experts:
    return Experts(jax.random.key(0), 8, SPEC, config, output_gain=1.0)


def routed_to(logits: jax.Array, k: int) -> Routed:
    best, chosen = jax.lax.top_k(logits, k)
    return Routed(logits, chosen, jax.nn.softmax(best, axis=-1))


def test_a_router_sees_the_state_and_the_facts_of_the_event_itself() -> None:
    router, context = Router(jax.random.key(0), 8, SPEC, 4), context_of(BATCH, SPEC)
    assert set(context) == {"domain", "event", "gap"}
    facts = [jax.nn.one_hot(ids, len(router.context.rows[name].get_value())) for name, ids in context.items()]
    rows = [router.context.rows[name].get_value() for name in context]
    whole = jnp.concatenate([router.state.kernel.get_value(), *rows])
    expected = jnp.concatenate([X, *facts], axis=-1) @ whole + router.state.bias.get_value()[None, None]
    np.testing.assert_allclose(router(X, context).logits, expected, rtol=1e-4, atol=1e-5)
    moved = router(X.at[0, 3].add(1.0), context).logits
    np.testing.assert_array_equal(np.delete(moved[0], 3, axis=0), np.delete(router(X, context).logits[0], 3, axis=0))


def test_weights_are_a_softmax_over_the_best_k_and_sum_to_one() -> None:
    routed = routed_to(jnp.asarray([[[1.0, 3.0, 2.0, -1.0]]]), 2)
    share = np.exp(3.0) / (np.exp(3.0) + np.exp(2.0))
    np.testing.assert_allclose(routed.dense()[0, 0], [0, share, 1 - share, 0], rtol=1e-6)
    np.testing.assert_allclose(routed_to(jnp.zeros((1, 1, 4)), 2).entropy(), 1.0, rtol=1e-6)


def test_losses_follow_their_formulas() -> None:
    logits = np.random.default_rng(0).normal(size=(*BATCH.item.shape, 4))
    routed = routed_to(jnp.asarray(logits, jnp.float32), 2)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    balance = z = 0.0
    for row in range(2):
        tokens = np.flatnonzero(REAL[row])
        chosen = np.argsort(-logits[row, tokens], axis=-1)[:, :2]
        share = np.bincount(chosen.ravel(), minlength=4) / (2 * len(tokens))
        balance += len(tokens) * 4 * (share * probability[row, tokens].mean(0)).sum()
        z += (np.log(np.exp(logits[row, tokens]).sum(-1)) ** 2).sum()
    np.testing.assert_allclose(router_loss(routed, SEGMENT), BALANCE * balance + Z * z, rtol=1e-5)
    twice = jax.tree.map(lambda x: jnp.stack([x, x])[:, None], routed)
    found = router_losses({"mixed": Trace(routed={"experts": twice}, segment=SEGMENT)})
    np.testing.assert_allclose(found["experts"], 2 * (BALANCE * balance + Z * z), rtol=1e-5)


def test_a_balanced_router_has_the_least_balance_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "BALANCE", 1.0)
    monkeypatch.setattr(routers, "Z", 0.0)
    segment = jnp.ones((1, 8), jnp.int32)
    even = jnp.tile(10.0 * jnp.eye(4), (2, 1))[None]
    loss = router_loss(routed_to(even, 1), segment)
    np.testing.assert_allclose(loss, 8.0, rtol=1e-4)
    one_sided = jnp.broadcast_to(even[:, :1], even.shape)
    assert router_loss(routed_to(one_sided, 1), segment) > 3 * loss


def test_experts_of_three_widths_are_the_weighted_sum_of_the_chosen_ones() -> None:
    layer, context = (
        layer_of(ExpertsConfig(per_width=2, multiples=(1.0, 2.0, 3.0))),
        context_of(BATCH, SPEC),
    )
    assert layer.widths == (8, 16, 24)
    assert layer.config.names == ("1x.0", "1x.1", "2x.0", "2x.1", "3x.0", "3x.1")
    assert ExpertsConfig(per_width=1).names == ("1x", "2x", "4x")
    y, routed = jax.jit(lambda layer: layer(X, SEGMENT, context))(layer)
    outputs = jnp.stack(
        [(jax.nn.silu(X @ w.gate[e]) * (X @ w.up[e])) @ w.down[e] for w in layer.weights() for e in range(2)], axis=2
    )
    expected = (outputs * (routed.dense() * REAL[..., None])[..., None]).sum(2)
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("crowded", [False, True])
def test_no_token_is_dropped_even_where_all_choose_the_same_experts(crowded: bool) -> None:
    layer = layer_of(ExpertsConfig(per_width=1, multiples=(1.0, 2.0, 4.0)))
    logits = jnp.broadcast_to(jnp.asarray([0.0, 5.0, 4.0]), (*BATCH.item.shape, 3)) if crowded else X[..., :3]
    order = layer.dispatch(routed_to(logits, 2), jnp.asarray(REAL))
    assert order.counts.sum() == REAL.sum() * 2
    if crowded:
        np.testing.assert_array_equal(order.counts, [0, REAL.sum(), REAL.sum()])
    ones = jnp.ones((*BATCH.item.shape, 2)) * REAL[..., None]
    rows = grouped_ffn.take(X.reshape(-1, 8), order)
    back = grouped_ffn.combine(rows, order, ones.reshape(-1, 2)).reshape(X.shape)
    np.testing.assert_allclose(back, 2 * X * REAL[..., None], rtol=1e-6)


def test_gaps_are_those_to_the_event_before_in_the_segment() -> None:
    segment = jnp.asarray([[1, 1, 1, 1, 2, 2, 0, 0]])
    time = jnp.asarray([[90, 90, 149, 149 + DAY, 5, 5 + 180 * DAY, 0, 0]], jnp.int32)
    names = [GAP_NAMES[bucket] for bucket in gap_bucket(segment, time)[0, :7].tolist()]
    assert names[:6] == ["none before", "0 s", "< 1 min", "< 3 days", "none before", ">= 180 days"]


def test_the_clock_is_that_of_the_week() -> None:
    spec = replace(SPEC, week_second=WEEK - HOUR)
    time = np.zeros_like(BATCH.time)
    time[0, :3] = (0, HOUR, 2 * DAY + 3 * HOUR)
    context = context_of(replace(BATCH, time=time), spec)
    assert context["weekday"][0, :3].tolist() == [6, 0, 2]
    assert context["hour"][0, :3].tolist() == [23, 0, 2]


@partial(jax.jit, static_argnames="model")
def encode(model: Model, params: Params, batch: Batch) -> Encoded:
    return model.encode(params.dense, rows_of(model, params, batch), batch, key=None, train=False)


def test_what_layers_did_is_told_for_every_token() -> None:
    config = replace(FLAGSHIP, **(PARTS["views"] | PARTS["loop"] | PARTS["mixers"] | PARTS["experts"]))
    model, params = built(config)
    encoded = encode(model, params, BATCH)
    details, sums = trace_details(encoded.traces), trace_sums(encoded.traces, SEGMENT, config.gates)
    tokens = REAL.sum()
    for view in ("mixed", "in_domain"):
        for gate, names in config.gates.items():
            each = details[f"{view}/{gate}"]
            assert each.shape == (1, *BATCH.item.shape, len(names))
            np.testing.assert_allclose(each.sum(-1), 1.0, rtol=1e-5)
            for place, name in enumerate(names):
                shown = sums[f"{view}/{gate}/{name}"]
                np.testing.assert_allclose(shown / tokens, each[0, REAL, place].mean(), rtol=1e-4)
        loops = details[f"{view}/loops"][0, REAL]
        assert ((loops > 1) & (loops < 2)).all()
        np.testing.assert_allclose(sums[f"{view}/loops"] / tokens, loops.mean(), rtol=1e-5)


def test_a_detail_of_the_in_domain_view_stands_at_its_own_event() -> None:
    """A sequence in one domain has the same two views."""
    config = replace(FLAGSHIP, **(PARTS["views"] | PARTS["mixers"]))
    model, params = built(config)
    blocks = params.dense["blocks"]
    still = params.dense | {"blocks": blocks | {"paths": jax.tree.map(jnp.zeros_like, blocks["paths"])}}
    batch = pack([[[3, 6, 9, 12, 15], [30, 33]], [[21, 3, 6]]], 16)
    details = trace_details(encode(model, replace(params, dense=still), batch).traces)
    real = batch.segment > 0
    np.testing.assert_allclose(
        details["in_domain/mixers"][:, real], details["mixed/mixers"][:, real], rtol=1e-4, atol=1e-5
    )


def test_bad_settings_of_experts_are_refused() -> None:
    for options in (
        {"per_width": -1},
        {"multiples": (0.0,)},
    ):
        with pytest.raises(ConfigError, match=r"model\.experts\."):
            ExpertsConfig(**options)  # pyright: ignore[reportArgumentType]
