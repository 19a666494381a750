"""`memory_bank_read` holds blocks of scores only: compiled for the CPU, and for TPUs without one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from mdrec_kernels.dispatch import compiling_for
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read
from mdrec_kernels.memory_bank_read.shapes import LARGE, SHAPES, Shape

from tests.kernels.fetches import moved
from tests.kernels.tpu_compiler import CHIPS, compile_for, compile_spmd

MIB = 2**20


def arguments(shape: Shape, dtype=jnp.bfloat16, gate: str = "token") -> tuple:
    """q, banks and the output's gradient, as shapes."""

    def array(*size: int, kind=dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, kind)

    gates = array(shape.T) if gate == "token" else array(shape.T, shape.D)
    tokens = array(shape.T, shape.D)
    banks = [
        Bank(array(slots, shape.D, kind=jnp.float32), array(slots, shape.D, kind=jnp.float32), gates)
        for slots in (shape.M, shape.G)
    ]
    return tokens, banks, tokens


def forward(q, banks, d_out, implementation=None):
    return memory_bank_read(q, banks, implementation=implementation)


def both(q, banks, d_out, implementation=None):
    out, back = jax.vjp(lambda q, banks: memory_bank_read(q, banks, implementation=implementation), q, banks)
    return out, back(d_out)


def temporaries(f, shape: Shape, implementation: str) -> int:
    compiled = jax.jit(lambda *a: f(*a, implementation)).lower(*arguments(shape, jnp.float32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_on_a_cpu_a_training_step_takes_a_fifth_of_the_formulas_memory() -> None:
    # Forward alone the compiler fuses the formula into one call of its matrix library, whose memory it does not report.
    shape = next(shape for shape in SHAPES if shape.name == "paper-8k")
    ours, formula = (temporaries(both, shape, form) for form in ("xla", "reference"))
    assert ours < formula / 5


def test_on_a_cpu_more_tokens_take_no_more_scores() -> None:
    large, larger = (temporaries(forward, replace(LARGE, T=tokens), "xla") for tokens in (LARGE.T, 2 * LARGE.T))
    assert larger == large < 40 * MIB


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
def test_on_a_tpu_nothing_of_tokens_by_slots_is_held(chip: str) -> None:
    compiled = compile_for(chip, both, *arguments(LARGE))
    assert compiled.kernels == 2
    assert compiled.temporaries <= (10 if chip == "v5p" else 8) * MIB


@pytest.mark.tpu
@pytest.mark.parametrize("f", [forward, both])
def test_on_a_tpu_a_gate_a_channel_takes_no_more(f) -> None:
    assert compile_for("v5e", f, *arguments(LARGE, gate="channel")).temporaries <= 8 * MIB


@pytest.mark.tpu
@pytest.mark.parametrize(("chip", "dtype"), [("v5p", jnp.bfloat16), ("v5e", jnp.float32)])
def test_on_a_tpu_odd_sizes(chip: str, dtype) -> None:
    odd = Shape("odd", T=12_345, M=1_000, G=77, D=128)
    assert compile_for(chip, both, *arguments(odd, dtype)).temporaries <= 8 * MIB


@pytest.mark.tpu
def test_over_sixteen_chips_only_the_slots_gradients_are_summed() -> None:
    def step(mesh, q, banks, d_out):
        def local(q, banks, d_out):
            out, (dq, d_banks) = both(q, banks, d_out)
            slots = [(one.key, one.value) for one in d_banks]
            return out, dq, [one.gate for one in d_banks], jax.lax.psum(slots, "data")

        spread = [Bank(P(), P(), P("data"))] * 2
        out_specs = (P("data"), P("data"), P("data"), P())
        specs = (P("data"), spread, P("data"))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)(q, banks, d_out)

    q, banks, d_out = arguments(LARGE)

    # One array a bank: specs are given for whole arguments.
    def with_banks(mesh, q, slots, gates, d_out):
        return step(mesh, q, [Bank(k, v, g) for (k, v), g in zip(slots, gates, strict=True)], d_out)

    slots, gates = [(one.key, one.value) for one in banks], [one.gate for one in banks]
    compiled = compile_spmd(
        with_banks, (q, P("data")), (slots, P()), (gates, P("data")), (d_out, P("data")), axes={"data": 16}
    )
    assert set(compiled.collectives) == {"all-reduce"}
    assert compiled.kernels == 2
    assert compiled.temporaries <= 16 * MIB


def test_tokens_cross_the_bus_once_and_slots_once_or_twice() -> None:
    q, banks, d_out = arguments(LARGE)
    with compiling_for("tpu"):
        found = moved(both, q, banks, d_out)
    tokens = LARGE.T * LARGE.D * 2
    slots = 2 * (LARGE.M + LARGE.G) * LARGE.D
    # Forward q and out, backward q, d_out and dq; slots in bfloat16 to each kernel, their gradients in float32 for
    # each of two cores; two gates forward, two backward, and their gradients.
    floor = 5 * tokens + 2 * slots * 2 + 2 * slots * 4 + 6 * LARGE.T * 4
    assert floor <= sum(one.bytes for one in found) <= 1.02 * floor
