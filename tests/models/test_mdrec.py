"""What the flagship's parts compute, each against its formula, and what holds of them together."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemory, LearnedMemoryConfig, MemoryBank
from mdrec_jax.models.layers.loop import Halting, LoopConfig, PassChange
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.models.layers.user_memory import UserMemory, aligned
from mdrec_jax.models.views import InDomain
from mdrec_jax.objectives.routers import router_losses
from mdrec_jax.types import Params
from tests.models.make import FLAGSHIP, PARTS, SASREC, SPEC, built, pack, random_sequences, rows_of, states

SEQUENCES = random_sequences(0, [5, 7, 3, 9, 1, 12])
BATCH = pack([SEQUENCES[:3], SEQUENCES[3:]])


PAIRS = list(itertools.combinations(PARTS, 2))


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_any_two_parts_learn_together(pair: tuple[str, str]) -> None:
    config = replace(FLAGSHIP, **(PARTS[pair[0]] | PARTS[pair[1]]))
    model = make_model(config, SPEC)
    params = model.init(jax.random.key(0))

    def loss(params: Params) -> jax.Array:
        encoded = model.encode(params.dense, rows_of(model, params, BATCH), BATCH, key=jax.random.key(1), train=True)
        return jnp.square(encoded.h - 1.0).mean() + 1e-3 * sum(router_losses(encoded.traces).values(), jnp.float32(0.0))

    step = jax.jit(jax.value_and_grad(loss))
    before, gradient = step(params)
    length = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    after, _ = step(jax.tree.map(lambda p, g: p - 0.0005 * g / length, params, gradient))
    assert after < before


@pytest.mark.parametrize("parts", [("views", "loop"), ("learned memory", "user memory", "mixers", "experts")])
def test_every_parameter_of_every_part_gets_a_gradient(parts: tuple[str, ...]) -> None:
    # What repeats blocks apart from what stands in a block: together they compile six blocks that hold everything.
    together = {name: value for part in parts for name, value in PARTS[part].items()}
    model, params = built(replace(FLAGSHIP, **together))
    goal = jax.random.normal(jax.random.key(5), (*BATCH.item.shape, SASREC.dim))

    def loss(dense: dict) -> jax.Array:
        encoded = model.encode(dense, rows_of(model, params, BATCH), BATCH, key=None, train=False)
        return (encoded.h * goal).sum() + sum(router_losses(encoded.traces).values(), jnp.float32(0.0))

    flat, _ = jax.tree.flatten_with_path(jax.jit(jax.grad(loss))(params.dense))
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not jnp.any(leaf != 0)]
    assert still == []


def test_the_in_domain_view_is_each_domain_by_itself() -> None:
    view = InDomain.of(BATCH, SPEC.num_domains)
    sequence = np.asarray(SEQUENCES[0])
    expected = np.concatenate([sequence[sequence % 3 == domain] for domain in range(3)])
    np.testing.assert_array_equal(view.batch.item[0, :5], expected)
    plain, params = built(SASREC)
    h = states(plain, params, view.batch)
    alone = states(plain, params, pack([[sequence[sequence % 3 == expected[0] % 3].tolist()]]))
    size = int((sequence % 3 == expected[0] % 3).sum())
    np.testing.assert_allclose(h[0, :size], alone[0, :size], rtol=2e-5, atol=1e-6)


def test_the_state_in_the_domain_asked_about_is_that_of_its_last_event() -> None:
    view = InDomain.of(BATCH, SPEC.num_domains)
    marks = view.into(jnp.asarray(BATCH.item, jnp.float32)[..., None])
    column = jnp.asarray(BATCH.previous_in_target_domain)
    found = view.previous(marks, column, jnp.asarray([-7.0]))[..., 0]
    expected = np.where(column >= 0, np.take_along_axis(BATCH.item, np.maximum(column, 0), 1), -7)
    np.testing.assert_array_equal(found, expected)


def test_passes_are_mixed_by_weights_that_sum_to_one() -> None:
    halting = Halting(jax.random.key(0), 4, LoopConfig(max_steps=3))
    halting.step.set_value(jnp.full((2,), 0.3))
    x = jax.random.normal(jax.random.key(1), (1, 2, 4))
    mixed, passes = halting(lambda x, number: jnp.tanh(x) + number, x)
    kernel, bias = (np.asarray(v.get_value()) for v in (halting.stop.kernel, halting.stop.bias))
    h, left, total, expected = np.asarray(x), np.ones((1, 2)), np.zeros((1, 2)), np.zeros((1, 2, 4))
    for number in range(3):
        size = 1.0 if number == 0 else np.log1p(np.exp(0.3))
        h = h + size * (np.tanh(h) + number)
        stops = 1 / (1 + np.exp(-(h @ kernel + bias)[..., 0]))
        weight = left if number == 2 else left * stops
        expected, total, left = expected + weight[..., None] * h, total + weight * (number + 1), left - weight
    np.testing.assert_allclose(left, 0.0, atol=1e-12)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    np.testing.assert_allclose(passes, total, rtol=1e-5)


def test_what_sub_layers_add_begins_smaller_where_it_is_added_more_often() -> None:
    outputs = {"['out']['kernel']", "['down']['kernel']", "['local_out']", "['shared_out']"}
    once = replace(FLAGSHIP, **PARTS["learned memory"])
    often = replace(once, loop=LoopConfig(max_steps=4))
    usual, half = (make_model(one, SPEC).init(jax.random.key(0)) for one in (once, often))
    found = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(half)}
    for path, whole in jax.tree.leaves_with_path(usual):
        name = jax.tree_util.keystr(path)
        part = 0.5 if any(name.endswith(output) for output in outputs) else 1.0
        np.testing.assert_array_equal(found[name], part * whole, err_msg=name)


def test_each_pass_changes_what_a_layer_reads_in_its_own_way() -> None:
    change = PassChange(jax.random.key(0), 4, LoopConfig(max_steps=3, rank=2))
    y = jax.random.normal(jax.random.key(1), (1, 5, 4))
    np.testing.assert_array_equal(change(y, 1), y)
    for number, part in enumerate((change.scale, change.shift, change.up)):
        part.set_value(jax.random.normal(jax.random.key(2 + number), part.get_value().shape))
    found = jax.jit(lambda number: jnp.stack([change(y, number), change(y, 2)]))(jnp.int32(1))
    for number, one in zip((1, 2), found, strict=True):
        scale, shift, down, up = (
            np.asarray(part.get_value())[number] for part in (change.scale, change.shift, change.down, change.up)
        )
        expected = np.asarray(y) * (1 + scale) + shift + np.asarray(y) @ down @ up
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_learned_memory_is_read_by_attention_behind_their_gates() -> None:
    reads = LearnedMemory(jax.random.key(0), 8, LearnedMemoryConfig(local=5, shared=3), output_gain=1.0)
    shared = MemoryBank(jax.random.key(1), 3, 8, scope="shared")
    x = jax.random.normal(jax.random.key(2), (2, 4, 8))

    def rms(x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True))

    expected = 0.0
    pairs = ((reads.local, reads.local_out, reads.local_gate), (shared, reads.shared_out, reads.shared_gate))
    for bank, out, gate in pairs:
        weight = jax.nn.softmax(rms(x) @ rms(bank.key.get_value()).T * 8**-0.5, axis=-1)
        expected += jax.nn.sigmoid(gate(x)) * (weight @ bank.value.get_value() @ out.get_value())
    np.testing.assert_allclose(reads(x, shared), expected, rtol=1e-4, atol=1e-5)


def test_user_memory_is_written_and_read_with_attentions_queries_and_keys() -> None:
    """Event by event: the memory fades, what it says of the event's key moves towards the value, and is read."""
    memory = UserMemory(jax.random.key(0), 8, 2)
    x, *heads = (
        jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 9, 8), *[(2, 9, 2, 4)] * 3])
    )
    segment = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 1, 2, 3, 3, 3, 3, 0]])
    found = memory(x, *heads, segment, 3)

    strength, kept = np.split(np.asarray(jax.nn.sigmoid(memory.gates(x))), 2, axis=-1)
    gate = 2 * np.asarray(jax.nn.sigmoid(memory.read_gate(x))).reshape(2, 9, 2, 4)
    q, k, v = map(np.asarray, heads)
    q, k = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (q, k))
    for row, head in itertools.product(range(2), range(2)):
        state, last = np.zeros((4, 4)), 0
        for t in np.flatnonzero(segment[row] > 0):
            state = state * kept[row, t, head] if segment[row, t] == last else np.zeros((4, 4))
            last = segment[row, t]
            key = k[row, t, head]
            state = state + strength[row, t, head] * np.outer(key, v[row, t, head] - key @ state)
            expected = gate[row, t, head] * (q[row, t, head] @ state)
            np.testing.assert_allclose(found[row, t, head], expected, rtol=1e-4, atol=1e-5)


def test_user_memory_needs_attention() -> None:
    with pytest.raises(ConfigError, match=r"model\.user_memory"):
        RecommenderConfig(mixers=MixersConfig(("convolution", "context")), user_memory=True)


def test_every_segment_is_moved_to_the_start_of_a_chunk() -> None:
    segment = jnp.asarray([[0, 1, 1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
    to, back = aligned(segment, 3, 4)
    column = np.arange(8)
    for row in range(2):
        moved = np.append(segment[row], 0)[to[row]]
        for number in range(1, int(segment[row].max()) + 1):
            assert np.flatnonzero(moved == number)[0] % 4 == 0
        real = np.asarray(segment[row] > 0)
        np.testing.assert_array_equal(np.asarray(to)[row, back[row]][real], column[real])


def test_parameters_say_what_stays_with_their_owner() -> None:
    model, _ = built(replace(SASREC, **(PARTS["views"] | PARTS["learned memory"])))
    dense = model.facts.dense
    assert dense["shared_bank"]["key"].scope == "shared"
    assert dense["blocks"]["learned_memory"]["local"]["key"].scope == "private"
    assert dense["blocks"]["paths"]["up"].scope == "private"
    assert dense["fusion"]["mixed_map"]["kernel"].scope == "shared"
