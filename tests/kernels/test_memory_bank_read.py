"""`memory_bank_read`: every form gives the formula's output and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from mdrec_kernels.dispatch import compiling_for
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read

from tests.kernels.bank_cases import draw, error, read, read_and_gradients

BLOCKED = ("xla", "pallas_tpu")


@pytest.mark.parametrize(("gate", "qk_norm"), [("token", True), ("channel", True), (None, False)])
@pytest.mark.parametrize("form", BLOCKED)
def test_output_and_gradients_are_the_formulas(form: str, gate, qk_norm: bool) -> None:
    case = draw(gate=gate)
    expected = read_and_gradients(*case, "reference", qk_norm=qk_norm)
    found = read_and_gradients(*case, form, qk_norm=qk_norm, rows=128)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert error(found[name], value) < 2e-6, name


@pytest.mark.parametrize("gate", ["token", "channel"])
@pytest.mark.parametrize("form", BLOCKED)
def test_bfloat16_is_at_most_twice_as_far_off_as_the_formula_in_bfloat16(form: str, gate) -> None:
    q, banks, scale, weight = draw(gate=gate)
    exact = read_and_gradients(q, banks, scale, weight, "reference")
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, (q, banks))
    formula = read_and_gradients(*narrow, scale, weight, "reference")
    found = read_and_gradients(*narrow, scale, weight, form, rows=128)
    for name, value in exact.items():
        assert error(found[name], value) <= 2 * error(formula[name], value), name


@pytest.mark.parametrize("gate", ["token", "channel"])
def test_gradients_are_those_of_differences_in_float64(gate) -> None:
    with jax.enable_x64(True):
        q, banks, scale, _ = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, draw(T=7, slots=(5, 3), D=4, gate=gate)
        )

        def f(q, held, scale):
            whole = tuple(Bank(*parts, bank.allowed) for parts, bank in zip(held, banks, strict=True))
            return read(q, whole, "xla", scale=scale, rows=3)

        held = tuple((bank.key, bank.value, bank.gate) for bank in banks)
        check_grads(f, (q, held, scale), order=1, modes=["rev"])


def test_leading_axes_are_kept() -> None:
    q, banks, scale, _ = draw(T=24)
    flat = read(q, banks, "xla", scale=scale)
    split = tuple(Bank(bank.key, bank.value, bank.gate.reshape(2, 3, 4), bank.allowed) for bank in banks)
    np.testing.assert_array_equal(read(q.reshape(2, 3, 4, 64), split, "xla", scale=scale).reshape(24, 64), flat)


@pytest.mark.parametrize("form", BLOCKED)
def test_under_strict_promotion_and_jit(form: str) -> None:
    q, banks, _, _ = draw(gate="token")
    mixed = tuple(Bank(bank.key, bank.value, bank.gate.astype(jnp.bfloat16), bank.allowed) for bank in banks)
    with jax.numpy_dtype_promotion("strict"):
        out = jax.jit(partial(read, implementation=form))(q.astype(jnp.bfloat16), mixed)
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize("form", BLOCKED)
def test_spread_over_devices_the_slots_gradients_add_up(form: str) -> None:
    q, banks, scale, weight = draw(T=256, slots=(20,), D=16)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def local(q, gate, weight, key, value):
        found = read_and_gradients(q, (Bank(key, value, gate),), scale, weight, form)
        return found["q"], jax.lax.psum(found["key 0"], "data"), found["gate 0"]

    (bank,) = banks
    arguments = q, bank.gate, weight, bank.key, bank.value
    specs = (P("data"),) * 3 + (P(),) * 2
    out_specs = (P("data"), P(), P("data"))
    spread = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    alone = read_and_gradients(q, (Bank(bank.key, bank.value, bank.gate),), scale, weight, "reference")
    for found, name in zip(jax.jit(spread)(*arguments), ("q", "key 0", "gate 0"), strict=True):
        assert error(found, alone[name]) < 2e-6, name


def test_jax_adds_the_slots_gradients_up_where_it_keeps_track() -> None:
    q, banks, _, weight = draw(T=64, slots=(20,), D=16, gate=None)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def gradient(q, weight, key, value):
        def loss(key, value):
            return jnp.vdot(memory_bank_read(q, [Bank(key, value)]), weight)

        return jax.grad(loss, argnums=(0, 1))(key, value)

    specs = (P("data"), P("data"), P(), P())
    spread = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=P()))
    arguments = q, weight, banks[0].key, banks[0].value
    for found, expected in zip(spread(*arguments), gradient(*arguments), strict=True):
        assert error(found, expected) < 2e-6


def test_what_does_not_fit_is_refused() -> None:
    q, banks, _, _ = draw(T=8, D=16, gate=None)
    with pytest.raises(ValueError, match="at least one bank"):
        memory_bank_read(q, [])
    with pytest.raises(ValueError, match=r"keys and values \[M, 16\], found \(70, 16\) and \(33, 16\)"):
        memory_bank_read(q, [Bank(banks[0].key, banks[1].value)])
    with pytest.raises(ValueError, match=r"a gate \(8,\) or \(8, 16\), found \(16,\)"):
        memory_bank_read(q, [Bank(banks[0].key, banks[0].value, jnp.ones(16))])
    with pytest.raises(ValueError, match=r"allowed \(70,\), found \(33,\)"):
        memory_bank_read(q, [Bank(banks[0].key, banks[0].value, None, jnp.ones(33, bool))])
    with pytest.raises(ValueError, match="int32"):
        memory_bank_read(q.astype(jnp.int32), banks)


def test_forms_that_cannot_run_say_why() -> None:
    q, banks, _, _ = draw(T=8, D=16, gate=None)
    with pytest.raises(NotImplementedError, match="for TPUs, and the platform is cpu"):
        memory_bank_read(q, banks, implementation="pallas_tpu")
    with pytest.raises(NotImplementedError, match="for GPUs, and the platform is cpu"):
        memory_bank_read(q, banks, implementation="cudnn")
    with compiling_for("gpu"), pytest.raises(NotImplementedError, match="cuDNN takes bfloat16"):
        memory_bank_read(q, banks, implementation="cudnn")
    with pytest.raises(NotImplementedError, match="multiple of 128, found 100"):
        read(q, banks, "pallas_tpu", rows=100)
    large = (Bank(jnp.zeros((20_000, 256)), jnp.zeros((20_000, 256))),)
    with pytest.raises(NotImplementedError, match="MiB of VMEM"):
        read(jnp.zeros((8, 256)), large, "pallas_tpu")
