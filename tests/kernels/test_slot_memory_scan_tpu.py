"""The kernels for TPUs give what the reference gives, and compile for every TPU with no memory beside operands."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from mdrec_kernels import dispatch, tpu
from mdrec_kernels.fetches import moved
from mdrec_kernels.slot_memory_scan import slot_memory_scan, tpu_cut
from mdrec_kernels.slot_memory_scan.shapes import USERS, Shape, backward_work, forward_work

from tests.kernels.slot_cases import MODES, aligned, assert_close, make, scan, value_and_gradients
from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

CHUNK = 64
ROWS = [[7, 45, -32, 33], [-40, 150], []]
SEGMENT = aligned(ROWS, CHUNK, 250)
"""Two blocks of one piece of two chunks, if blocks are cut short; rows and columns are filled up."""


@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_in_the_interpreter(mode, monkeypatch):
    monkeypatch.setattr(tpu_cut, "COLUMNS", 128)
    inputs = make(mode, *SEGMENT.shape, K=16, V=8, M=8)
    run = partial(value_and_gradients, inputs, SEGMENT, mode, chunk=CHUNK)
    with tpu.interpreted():
        found = run(implementation="pallas_tpu")
    assert_close(found, run(implementation="reference"), 4e-6)


@pytest.mark.parametrize("mode", [pytest.param("erase"), pytest.param("delta", marks=pytest.mark.slow)])
def test_bfloat16_errs_at_most_twice_as_much_as_its_reference(mode):
    segment = aligned([[90], [64, 30]], CHUNK, 128)
    wide = make(mode, *segment.shape, K=32, V=32, M=16)
    narrow = wide | {name: wide[name].astype(jnp.bfloat16) for name in ("q", "k", "value")}
    run = partial(value_and_gradients, segment=segment, mode=mode, chunk=CHUNK)
    exact, naive = run(wide, implementation="reference"), run(narrow, implementation="reference")
    with tpu.interpreted():
        got = run(narrow, implementation="pallas_tpu")
    for name, x in exact.items():
        error, allowed = (float(jnp.linalg.norm(y[name].astype(jnp.float32) - x)) for y in (got, naive))
        assert got[name].dtype == naive[name].dtype
        assert error <= 2 * allowed, name


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    before=st.lists(st.sampled_from([-64, 1, 20, 64]), max_size=3),
    length=st.sampled_from([1, 50, 64]),
    after=st.integers(0, 64),
    seed=st.integers(1, 9),
)
def test_a_user_gets_the_same_at_any_offset_beside_any_neighbours_and_padding(mode, before, length, after, seed):
    segment = aligned([[3, 100], [*before, length, after]], CHUNK, 256)
    at = CHUNK * len(before)
    alone, among = (make(mode, 2, 256, K=16, V=8, M=8, seed=one) for one in (0, seed))
    for name in among.keys() - {"slots", "state"}:
        among[name] = among[name].at[1, at : at + length].set(alone[name][0, :length])
    among |= {name: alone[name] for name in among.keys() & {"slots"}}
    among["state"] = among["state"].at[1].set(alone["state"][0])
    with tpu.interpreted():
        run = partial(scan, mode=mode, chunk=CHUNK, implementation="pallas_tpu")
        expected, _ = run(alone, aligned([[length], []], CHUNK, 256))
        found, _ = run(among, segment)
    np.testing.assert_allclose(found[1, at : at + length], expected[0, :length], atol=1e-6)
    assert not np.asarray(found)[segment == 0].any()


def test_huge_logits_and_slots_that_are_wiped_out():
    segment = aligned([[64, 5]], CHUNK, 128)
    inputs = make("erase", *segment.shape, K=16, V=8, M=8)
    ones = jnp.ones(segment.shape)
    inputs |= {"q": 1e6 * inputs["q"], "k": 1e6 * inputs["k"], "write": ones, "erase": ones}
    run = partial(value_and_gradients, inputs, segment, "erase", chunk=CHUNK)
    with tpu.interpreted():
        found = run(implementation="pallas_tpu")
    expected = run(implementation="reference")
    assert all(np.isfinite(x).all() for x in found.values())
    same = "out", "end", "value", "state", "erase", "write"
    assert_close({name: found[name] for name in same}, {name: expected[name] for name in same}, 1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"chunk": 20}, "a multiple of 8, and divide 128 or be one of it; found 20"),
        ({}, {"chunk": 192}, "found 192"),
        ({"M": 7}, {"chunk": 32}, "slots must be a multiple of 8, found 7"),
        ({"V": 1 << 18}, {"chunk": 32}, "MiB of VMEM"),
    ],
)
def test_shapes_that_are_not_taken(change, options, message):
    inputs = jax.eval_shape(lambda: make("erase", 2, 128, **({"K": 16, "V": 8, "M": 8} | change)))
    with tpu.interpreted(), pytest.raises(NotImplementedError, match=message):
        jax.eval_shape(
            lambda x: scan(x, np.ones((2, 128), np.int32), "erase", implementation="pallas_tpu", **options), inputs
        )


def arguments(shape: Shape) -> tuple[Any, Any]:
    """Shapes of segments and of the rest, q, k and value in bfloat16."""
    numbers = jax.ShapeDtypeStruct((shape.R, shape.T), jnp.float32)
    rest = {name: jax.ShapeDtypeStruct((shape.R, shape.T, shape.K), jnp.bfloat16) for name in ("q", "k")}
    rest["value"] = jax.ShapeDtypeStruct((shape.R, shape.T, shape.V), jnp.bfloat16)
    rest["state"] = jax.ShapeDtypeStruct((shape.R, shape.M, shape.V), jnp.float32)
    rest |= {"write": numbers, "erase" if shape.mode == "erase" else "log_decay": numbers}
    if shape.mode == "erase":
        rest["slots"] = jax.ShapeDtypeStruct((shape.M, shape.K), jnp.float32)
    return jax.ShapeDtypeStruct((shape.R, shape.T), jnp.int32), rest


def passes(shape: Shape) -> dict[str, tuple]:
    """Function and arguments: forward, forward with what is kept for the way back, and the way back."""

    def forward(segment, inputs):
        return slot_memory_scan(segment=segment, mode=shape.mode, chunk=shape.chunk, **inputs)

    def keeping(segment, inputs):
        return jax.vjp(partial(forward, segment), inputs)

    with dispatch.compiling_for("tpu"):
        found, back = jax.eval_shape(keeping, *arguments(shape))
    return {
        "forward": (forward, *arguments(shape)),
        "keeping": (keeping, *arguments(shape)),
        "backward": (lambda back, d: back(d), back, found),
    }


COMPILED = [pytest.param("erase", chip) for chip in CHIPS]
COMPILED += [pytest.param("delta", chip, marks=pytest.mark.slow) for chip in CHIPS]


FETCHED = {("delta", "v5p", "backward"): 5 * USERS["delta"].R * USERS["delta"].T}
"""One number a token, which v5p's compiler fetches ahead of the kernel."""


@pytest.mark.tpu
@pytest.mark.parametrize(("mode", "chip"), COMPILED)
def test_compiled_with_no_temporary_memory(mode, chip):
    for name, (f, *rest) in passes(USERS[mode]).items():
        compiled = compile_for(chip, f, *rest)
        assert compiled.kernels == 1, name
        assert compiled.temporaries <= FETCHED.get((mode, chip, name), 0), name


@pytest.mark.parametrize("mode", MODES)
def test_little_more_is_moved_than_has_to_be(mode):
    shape = USERS[mode]
    floor = {"forward": forward_work(shape, 2), "keeping": forward_work(shape, 2), "backward": backward_work(shape, 2)}
    for name, (f, *rest) in passes(shape).items():
        with dispatch.compiling_for("tpu"):
            found = sum(one.bytes for one in moved(f, *rest))
        assert found <= 1.2 * floor[name].bytes, name


@pytest.mark.tpu
@pytest.mark.parametrize(("mode", "collectives"), [("erase", {"all-reduce": 1}), ("delta", {})])
def test_sixteen_chips_only_add_up_the_gradient_of_the_slots(mode, collectives):
    shape = USERS[mode]
    segment, rest = arguments(shape)
    shared = {name: rest.pop(name) for name in rest.keys() & {"slots"}}
    specs = {name: P("data") for name in rest} | {name: P() for name in shared}

    def gradients(mesh, segment, shared, rest):
        def local(segment, shared, rest):
            def loss(inputs):
                out, end = slot_memory_scan(segment=segment, mode=mode, chunk=shape.chunk, **inputs)
                return (out.astype(jnp.float32) ** 2).sum() + (end**2).sum()

            found = jax.grad(loss)(rest | shared)
            return found | {name: jax.lax.psum(found[name], "data") for name in shared}

        in_specs = P("data"), {name: P() for name in shared}, {name: P("data") for name in rest}
        return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=specs, check_vma=False)(
            segment, shared, rest
        )

    compiled = compile_spmd(gradients, (segment, P("data")), (shared, P()), (rest, P("data")), axes={"data": 16})
    assert compiled.collectives == collectives
    assert compiled.kernels == 2
