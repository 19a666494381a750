"""Floors in time, and bytes counted from grids and index maps: as many as the interpreter moves."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator  # the counter's place; no public one
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from mdrec_kernels import roofline
from mdrec_kernels.roofline import Chip, Work

from tests.kernels.fetches import fetches, moved


def test_the_floor_is_the_slower_of_products_and_memory() -> None:
    chip = Chip("slow", {"bfloat16": 100.0}, 10.0, "made up")
    assert chip.floor(Work(200, 1)) == 2
    assert chip.floor(Work(1, 30)) == 3
    assert chip.share(Work(100, 10) + Work(100, 0), seconds=4) == 0.5
    with pytest.raises(ValueError, match="no peak of slow in float64"):
        chip.floor(Work(1, 1), jnp.float64)


@pytest.mark.parametrize(
    ("name", "flops", "bandwidth"),
    [("v5e", 197e12, 0.82e12), ("v5p", 459e12, 2.46e12), ("v6e", 920e12, 1.64e12), ("7x", 2310e12, 7.4e12)],
)
def test_whole_tpus(name: str, flops: float, bandwidth: float) -> None:
    chip = roofline.tpu_chip(name)
    assert chip.flops_per_second["bfloat16"] == pytest.approx(flops)
    assert chip.bytes_per_second == pytest.approx(bandwidth)


def test_a_cpu_is_as_fast_as_its_probes_ran() -> None:
    product, copy = roofline.CPU_PROBES
    chip = roofline.cpu_chip(2.0, 4.0)
    assert chip.floor(product.work, jnp.float32) == pytest.approx(2.0)
    assert chip.floor(copy.work, jnp.float32) == pytest.approx(4.0)


def test_a_block_is_fetched_when_its_index_changes() -> None:
    assert fetches((3, 4), lambda i, j: (i, 0)) == 3
    assert fetches((3, 4), lambda i, j: (0, j)) == 12
    assert fetches((3, 4), lambda i, j: (0, 0)) == 1
    assert fetches((3, 1), lambda i, j: (0, j)) == 1
    assert fetches((0, 4), lambda i, j: (i, j)) == 0
    assert fetches((), lambda: (0,)) == 1
    assert fetches((4,), lambda i, order: (order[i],), jnp.asarray([5, 5, 2, 5])) == 3


def product(x, y, interpret):
    """x @ y by blocks, the sum in the output's block."""

    def body(x_ref, y_ref, out_ref):
        @pl.when(pl.program_id(2) == 0)
        def _():
            out_ref[...] = jnp.zeros_like(out_ref)

        out_ref[...] += x_ref[...] @ y_ref[...]

    return pl.pallas_call(
        body,
        grid=(2, 3, 2),
        in_specs=[pl.BlockSpec((8, 128), lambda i, j, k: (i, k)), pl.BlockSpec((128, 128), lambda i, j, k: (k, j))],
        out_specs=pl.BlockSpec((8, 128), lambda i, j, k: (i, j)),
        out_shape=jax.ShapeDtypeStruct((16, 384), jnp.float32),
        interpret=interpret,
    )(x, y)


def gather(order, x, interpret):
    """Blocks of x in the order given."""

    def body(_, x_ref, out_ref):
        out_ref[...] = x_ref[...]

    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(order.shape[0],),
        in_specs=[pl.BlockSpec((8, 128), lambda i, order: (order[i], 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i, order: (i, 0)),
    )
    out = jax.ShapeDtypeStruct((8 * order.shape[0], 128), jnp.float32)
    return pl.pallas_call(body, grid_spec=spec, out_shape=out, interpret=interpret)(order, x)


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """Bytes that TPU interpret mode moves between main memory and blocks, by the operand's name."""
    bytes_of: Counter[str] = Counter()
    get, store = simulator.get, simulator.store

    def counting_get(*args, input_name=None, **rest):
        token, value = get(*args, input_name=input_name, **rest)
        if input_name is not None:
            bytes_of[input_name] += value.nbytes
        return token, value

    def counting_store(*args, output_name=None, **rest):
        if output_name is not None:
            value = next(a for a in args[::-1] if hasattr(a, "dtype") and np.ndim(a) > 1)
            bytes_of[output_name] += value.nbytes
        return store(*args, output_name=output_name, **rest)

    monkeypatch.setattr(simulator, "get", counting_get)
    monkeypatch.setattr(simulator, "store", counting_store)
    return bytes_of


def test_the_count_is_the_interpreters(counted) -> None:
    x, y = jnp.ones((16, 256)), jnp.ones((256, 384))
    found = jax.block_until_ready(product(x, y, pltpu.InterpretParams()))
    np.testing.assert_array_equal(found, x @ y)
    ours = [one.bytes for one in moved(jax.jit(lambda x, y: product(x, y, False)), x, y)]
    assert ours == [12 * 4096, 12 * 65536, 6 * 4096]
    assert sorted(counted.values()) == sorted(ours)


def test_the_count_is_the_interpreters_with_prefetched_scalars(counted) -> None:
    order, x = jnp.asarray([2, 2, 0, 1, 1, 1, 2]), jnp.ones((24, 128))
    jax.block_until_ready(gather(order, x, pltpu.InterpretParams()))
    ours = moved(lambda order, x: gather(order, x, False), order, x, scalars=[(order,)])
    assert [one.fetches for one in ours] == [4, 7]
    assert sorted(counted.values()) == sorted(one.bytes for one in ours)


def test_prefetched_scalars_have_to_be_given() -> None:
    order, x = jnp.asarray([2, 0]), jnp.ones((24, 128))
    with pytest.raises(ValueError, match="prefetches 1 scalars, found 0"):
        moved(lambda order, x: gather(order, x, False), order, x)
