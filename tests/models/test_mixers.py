"""What each mixer computes, against its formula, and that none looks ahead or at a neighbour."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.models.api import make_model
from mdrec_jax.models.layers.context import context_of, context_sizes
from mdrec_jax.models.layers.mixers import (
    ContextMean,
    Convolution,
    Mixers,
    MixersConfig,
    by_column,
    by_tree,
    causal_convolution,
    linear_recurrence,
)
from tests.models.make import FLAGSHIP, PARTS, SPEC, built, pack, random_sequences, states

CLOCKED = replace(SPEC, week_second=5000)
SEQUENCES = random_sequences(4, [5, 7, 3, 6, 1])
BATCH = pack([SEQUENCES[:3], SEQUENCES[3:]], 16)
SEGMENT = jnp.asarray(BATCH.segment)
DIM = 8


def x_of(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (*BATCH.item.shape, DIM))


def sigmoid(x: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def linear(module: Any, x: Any) -> np.ndarray:
    return np.asarray(x, np.float64) @ np.asarray(module.kernel.get_value()) + np.asarray(module.bias.get_value())


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def by_segment(one: Any, *arrays: Any) -> np.ndarray:
    """`one` of each segment's part of [R, T, ...] arrays, put together; zeros at padding."""
    out = np.zeros((*BATCH.item.shape, DIM))
    for row in range(2):
        for number in np.unique(BATCH.segment[row][BATCH.segment[row] > 0]):
            here = BATCH.segment[row] == number
            out[row, here] = one(*(np.asarray(array, np.float64)[row, here] for array in arrays))
    return out


def assert_close_where_real(found: Any, expected: np.ndarray) -> None:
    real = BATCH.segment > 0
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], rtol=2e-4, atol=2e-5)


def test_a_linear_recurrence_is_its_loop_and_so_is_its_gradient() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    a, b, goal = (jax.random.uniform(key, (2, 13, 3)) for key in keys)
    a = a.at[0, 5].set(0.0)

    def loop(a: jax.Array, b: jax.Array) -> jax.Array:
        h, out = jnp.zeros((2, 3)), []
        for t in range(13):
            h = a[:, t] * h + b[:, t]
            out.append(h)
        return jnp.stack(out, axis=1)

    np.testing.assert_allclose(linear_recurrence(a, b), loop(a, b), rtol=1e-6)
    for form in (by_column, by_tree):
        np.testing.assert_allclose(form(a, b, reverse=False), loop(a, b), rtol=1e-6)
        backwards = loop(a[:, ::-1], b[:, ::-1])[:, ::-1]
        np.testing.assert_allclose(form(a, b, reverse=True), backwards, rtol=1e-6)
    found, expected = (
        jax.jit(jax.grad(lambda a, b, f=f: (f(a, b) * goal).sum(), argnums=(0, 1)))(a, b)
        for f in (linear_recurrence, loop)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_convolution_is_numpys_in_every_segment() -> None:
    x, kernel = x_of(), jax.random.normal(jax.random.key(1), (4, DIM))

    def one(x: np.ndarray) -> np.ndarray:
        each = [np.convolve(x[:, d], np.asarray(kernel)[:, d])[: len(x)] for d in range(DIM)]
        return np.stack(each, axis=1)

    assert_close_where_real(causal_convolution(x, kernel, SEGMENT), by_segment(one, x))


def test_the_convolution_is_gated() -> None:
    layer, x = Convolution(jax.random.key(0), DIM, CLOCKED, output_gain=1.0), x_of()
    value, gate = np.split(linear(layer.inward, x), 2, axis=-1)
    mixed = np.asarray(causal_convolution(jnp.asarray(value), layer.kernel.get_value(), SEGMENT))
    assert_close_where_real(layer(x, SEGMENT, {}), linear(layer.out, silu(gate) * mixed))


def test_the_context_mean_follows_its_equations_event_by_event() -> None:
    layer, x = ContextMean(jax.random.key(0), DIM, CLOCKED, output_gain=1.0), x_of()
    layer.rows.rows["gap"].set_value(jax.random.normal(jax.random.key(1), (12, 3 * DIM)))
    context = context_of(BATCH, CLOCKED)
    assert set(context) == {"domain", "event", "gap", "hour", "weekday"}
    facts = sum(np.asarray(layer.rows.rows[name].get_value())[np.asarray(ids)] for name, ids in context.items())

    def one(x: np.ndarray, facts: np.ndarray) -> np.ndarray:
        value, gate = np.split(linear(layer.inward, x), 2, axis=-1)
        weight, keep, opening = np.split(facts, 3, axis=-1)
        keep, weight = sigmoid(keep + np.asarray(layer.keep.get_value())), sigmoid(weight)
        total, share, out = np.zeros(DIM), np.zeros(DIM), []
        for t in range(len(x)):
            total = keep[t] * total + weight[t] * value[t]
            share = keep[t] * share + weight[t]
            out.append(silu(gate[t] + opening[t]) * total / share)
        return linear(layer.out, np.stack(out))

    assert_close_where_real(layer(x, SEGMENT, context), by_segment(one, x, facts))


def mixers(kinds: tuple[Any, ...]) -> Mixers:
    return Mixers(jax.random.key(0), DIM, CLOCKED, MixersConfig(kinds), output_gain=1.0)


EACH = pytest.mark.parametrize("kind", ["convolution", "context"])


@EACH
def test_no_mixer_looks_ahead_or_at_a_neighbour(kind: Any) -> None:
    """To the last bit: of a row's segments 1, 2, 3 every event of the second is changed, in what it is and when."""
    layer, x = mixers((kind,)), x_of()
    run = jax.jit(lambda x, batch: layer(x, None, SEGMENT, context_of(batch, CLOCKED))[0])
    before = run(x, BATCH)
    for column in np.flatnonzero(BATCH.segment[0] == 2):
        changed = {name: np.array(getattr(BATCH, name)) for name in ("domain", "event", "time")}
        changed["domain"][0, column] = (changed["domain"][0, column] + 1) % 3
        changed["event"][0, column] ^= 1
        changed["time"][0, column] += 777
        after = run(x.at[0, column].add(1.0), replace(BATCH, **changed))
        allowed = (BATCH.segment[0] == 2) & (np.arange(16) >= column)
        np.testing.assert_array_equal(after[0, ~allowed], before[0, ~allowed])
        np.testing.assert_array_equal(after[1], before[1])
        assert (np.abs(after[0, column] - before[0, column]) > 0).any()


@EACH
def test_gradients_of_every_mixer_are_those_of_differences(kind: Any) -> None:
    with jax.enable_x64(True):
        layer, segment = mixers((kind,)), SEGMENT[:1, :12]
        mixer, context = layer.others[kind], jax.tree.map(lambda ids: ids[:1, :12], context_of(BATCH, CLOCKED))
        x = x_of().astype(jnp.float64)[:1, :12]
        check_grads(jax.jit(lambda x: mixer(x, segment, context)), (x,), order=1, modes=["rev"], rtol=1e-4)


def test_the_output_is_the_gates_sum_of_the_mixers() -> None:
    kinds = ("attention", "context", "convolution")
    layer, x = mixers(kinds), x_of()
    context, attended = context_of(BATCH, CLOCKED), x_of(1)
    y, routed = layer(x, attended, SEGMENT, context)
    gate = routed.dense()
    np.testing.assert_allclose(gate.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal((gate > 0).sum(-1), 2)
    outputs = {
        "attention": attended,
        "context": layer.others["context"](x, SEGMENT, context),
        "convolution": layer.others["convolution"](x, SEGMENT, context),
    }
    expected = sum(gate[..., place, None] * outputs[kind] for place, kind in enumerate(kinds))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_attention_as_the_only_mixer_is_attention() -> None:
    plain, params = built(FLAGSHIP)
    model = make_model(replace(FLAGSHIP, mixers=MixersConfig(("attention",))), SPEC)
    dense = model.init(jax.random.key(1)).dense
    blocks = params.dense["blocks"] | {"mixers": dense["blocks"]["mixers"]}
    found = states(model, replace(params, dense=params.dense | {"blocks": blocks}), BATCH)
    np.testing.assert_allclose(found, states(plain, params, BATCH), rtol=1e-6)


def test_bad_settings_are_refused() -> None:
    for kinds, options, field in (
        (("convolution", "convolution"), {}, "model.mixers.kinds"),
        (("pooling", "attention"), {}, "model.mixers.kinds"),
    ):
        with pytest.raises(ConfigError, match=field):
            MixersConfig(kinds, **options)  # pyright: ignore[reportArgumentType]
    timeless = replace(SPEC, has_time=False)
    assert "gap" not in context_sizes(timeless)
    with pytest.raises(InputError, match=r"context mixer needs times"):
        make_model(replace(FLAGSHIP, **PARTS["mixers"]), timeless)
