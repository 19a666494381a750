"""The kernels for TPUs, interpreted: the formula's values and gradients, and only the tiles that are needed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from mdrec_kernels import tpu
from mdrec_kernels.packed_attention import Tiling, packed_attention, tpu_forward, tpu_layout
from mdrec_kernels.packed_attention.reference import visible
from mdrec_kernels.packed_attention.spec import Places, Spec

from tests.kernels.fetches import moved
from tests.kernels.packed import arrays, pack
from tests.kernels.test_packed_attention import CASES, attend, make_weights, value_and_gradients

TILE = Tiling(block=8, step=8, group_bytes=1)
SEGMENT = pack([[5, 7, 1, 9], [-3, 17, 1], []], 22)

MOST = {
    "softmax": {"window": 9, "position": 2, "time": 1, "dropout": 0.4},
    "silu": {"mode": "silu", "window": 11, "position": 1, "time": 2},
    "not causal": {"causal": False},
}
"""Everything once, in few programs: the interpreter compiles slowly."""


def interpreted(weights, segment, case):
    with tpu.interpreted():
        return value_and_gradients(weights, segment, case, "pallas_tpu", TILE)


def distance(found, expected) -> float:
    """The largest difference, in units of the largest entry of each array, or of 1; NaN if there is one anywhere."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([jnp.abs(x - y).max() / jnp.maximum(1, jnp.abs(y).max()) for x, y in pairs]))


@pytest.mark.parametrize("case", MOST.values(), ids=MOST)
def test_values_and_gradients_are_the_formulas(case) -> None:
    weights = make_weights(case, *SEGMENT.shape)
    assert (
        distance(interpreted(weights, SEGMENT, case), value_and_gradients(weights, SEGMENT, case, "reference")) < 1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_so_are_they_with_every_choice_of_options(case) -> None:
    weights = make_weights(case, *SEGMENT.shape, heads=2, width=64)
    assert (
        distance(interpreted(weights, SEGMENT, case), value_and_gradients(weights, SEGMENT, case, "reference")) < 4e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["softmax", "silu"])
def test_gradients_are_the_slopes_of_the_function(mode) -> None:
    segment = pack([[3, 1, 2], [-1, 4]], 6)
    case = {"mode": mode, "position": 1, "time": 2}
    with jax.enable_x64(True), tpu.interpreted():
        weights = make_weights(case, *segment.shape, width=3, dtype="float64")
        f = jax.jit(lambda w: attend(w, segment, case, "pallas_tpu", Tiling(4, 4, 1)))
        check_grads(f, (weights,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["softmax", pytest.param("silu", marks=pytest.mark.slow)])
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(mode) -> None:
    case = {"mode": mode, "window": 20}
    narrow = tuple(None if x is None else x.astype(jnp.bfloat16) for x in make_weights(case, *SEGMENT.shape))
    wide = tuple(None if x is None else x.astype(jnp.float32) for x in narrow)
    exact = value_and_gradients(wide, SEGMENT, case, "reference")
    naive = value_and_gradients(narrow, SEGMENT, case, "reference")
    for x, y, z in zip(*map(jax.tree.leaves, (interpreted(narrow, SEGMENT, case), naive, exact)), strict=True):
        assert x.dtype == jnp.bfloat16
        error, allowed = (float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - z) ** 2))) for a in (x, y))
        assert error <= 2 * allowed


@settings(max_examples=2, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.sampled_from([-5, 1, 1, 3, 19]), max_size=4), min_size=1, max_size=2),
    rest=st.integers(0, 5),
    width=st.integers(1, 9),
    name=st.sampled_from(["softmax", "silu, not causal"]),
)
def test_odd_sizes_and_segments_of_any_length(rows, rest, width, name) -> None:
    segment = pack(rows, max(1, *(sum(map(abs, row)) + rest for row in rows)))
    weights = make_weights({}, *segment.shape, width=width)
    found = interpreted(weights, segment, CASES[name])
    assert distance(found, value_and_gradients(weights, segment, CASES[name], "reference")) < 1e-6


@pytest.mark.parametrize("mode", ["softmax", "silu"])
def test_huge_scores_are_no_nan(mode) -> None:
    case = {"mode": mode}
    q, k, v, *tables = make_weights(case, *SEGMENT.shape)
    huge = (1e4 * q, 1e4 * k, v, *tables)
    found = interpreted(huge, SEGMENT, case)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert distance(found[0], value_and_gradients(huge, SEGMENT, case, "reference")[0]) < 1e-6


@partial(jax.jit, static_argnames="mode")
def user_rows(q, k, v, segment, mode):
    options = {"mode": mode, "window": 16, "normalizer": 16.0, "tiling": TILE}
    return packed_attention(q, k, v, segment, implementation="pallas_tpu", **options)


@pytest.mark.parametrize("mode", ["softmax", "silu"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(before=st.lists(st.integers(1, 9), max_size=3), gap=st.integers(0, 3), after=st.integers(0, 2))
def test_a_user_gets_the_same_at_any_offset_beside_any_neighbours(mode, before, gap, after) -> None:
    length, user = 40, 9
    start = sum(before) + gap
    segment = pack([[*before, *([-gap] if gap else []), user, *([after] if after else [])]], length)
    row, own = arrays(7, 1, length, 1, 4), arrays(0, 1, user, 1, 4)
    placed = [(1e4 * x).at[:, start : start + user].set(y) for x, y in zip(row, own, strict=True)]
    alone = [jnp.zeros_like(x).at[:, :user].set(y) for x, y in zip(row, own, strict=True)]
    with tpu.interpreted():
        beside = user_rows(*placed, jnp.asarray(segment), mode)
        single = user_rows(*alone, jnp.asarray(pack([[user]], length)), mode)
    np.testing.assert_allclose(beside[:, start : start + user], single[:, :user], atol=2e-6)
    assert np.all(np.isfinite(beside))
    assert not np.any(np.asarray(beside)[segment == 0])


def touched(segment: np.ndarray, spec: Spec, tile: int) -> int:
    """Tiles that hold at least one pair that may see each other."""
    mask = np.asarray(visible(spec, Places(jnp.asarray(segment), None, None, None)))
    missing = -mask.shape[1] % tile
    mask = np.pad(mask, ((0, 0), (0, missing), (0, missing)))
    return int(mask.reshape(mask.shape[0], mask.shape[1] // tile, tile, -1, tile).any((2, 4)).sum())


def spec_of(causal: bool = True, window: int | None = None) -> Spec:
    return Spec("softmax", causal, window, 1.0, 1.0, 0.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(-9, 40).filter(bool), max_size=6),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 5, 8, 9, 23]),
)
def test_the_tiles_from_first_to_last_are_those_that_hold_a_visible_pair(lengths, causal, window) -> None:
    kept = [n for n, end in zip(lengths, np.cumsum(np.abs(lengths)), strict=True) if end <= 64]
    segment = pack([kept, [13, -20, 30]], 64)
    spec = spec_of(causal, window)
    assert tpu_layout.executed(jnp.asarray(segment), spec, 8) == touched(segment, spec, 8)


def test_no_other_tile_is_computed(monkeypatch) -> None:
    computed = []

    def counted(*arguments):
        jax.debug.callback(lambda: computed.append(1))
        return visible_in_tile(*arguments)

    visible_in_tile = tpu_forward.visible
    monkeypatch.setattr(tpu_forward, "visible", counted)
    segment = pack([[5, 7, 1, 13, 4, -18, 9], [-9, 40], [], [-57, 1]], 64)
    q, k, v = arrays(0, 4, 64, 1, 4)
    with tpu.interpreted():
        out = packed_attention(q, k, v, jnp.asarray(segment), window=20, tiling=TILE, implementation="pallas_tpu")
        out.block_until_ready()
    jax.effects_barrier()
    assert len(computed) == touched(segment, spec_of(window=20), 8)


@pytest.mark.parametrize("tiles", [4, 5, 9])
def test_segments_of_whole_tiles_waste_at_most_a_quarter(tiles: int) -> None:
    tile = 8
    segment = pack([[tiles * tile] * 3, [2 * tiles * tile, -tile]], 3 * tiles * tile)
    area = tpu_layout.executed(jnp.asarray(segment), spec_of(), tile) * tile**2
    needed = sum(length**2 / 2 for length in [tiles * tile] * 3 + [2 * tiles * tile])
    assert area <= 1.25 * needed


def test_what_the_kernels_cannot_take_is_said() -> None:
    q, k, v = arrays(0, 1, 8, 1, 4)
    segment = jnp.ones((1, 8), jnp.int32)
    with pytest.raises(NotImplementedError, match="platform is cpu"):
        packed_attention(q, k, v, segment, implementation="pallas_tpu")
    long = jax.ShapeDtypeStruct((1, 65_536, 1, 128), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 65_536), jnp.int32)
    with tpu.interpreted(), pytest.raises(NotImplementedError, match="VMEM"):
        jax.eval_shape(lambda q, s: packed_attention(q, q, q, s, implementation="pallas_tpu"), long, ids)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = [jnp.concatenate([x, x]) for x in (q, k, v, segment)]
    f = jax.shard_map(
        lambda *a: packed_attention(*a, tiling=TILE, implementation="pallas_tpu"),
        mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"), check_vma=True,
    )  # fmt: skip
    with tpu.interpreted(), pytest.raises(NotImplementedError, match="check_vma=False"):
        f(*rows)


def test_devices_share_the_rows() -> None:
    q, k, v = arrays(0, 4, 16, 1, 4)
    segment = jnp.asarray(pack([[6, 4], [16], [], [-7, 9]], 16))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def f(q, k, v, segment):
        return packed_attention(q, k, v, segment, tiling=TILE, implementation="pallas_tpu")

    over = jax.shard_map(f, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"), check_vma=False)
    with tpu.interpreted():
        found = jax.jit(over)(q, k, v, segment)
    np.testing.assert_allclose(found, packed_attention(q, k, v, segment, implementation="reference"), atol=1e-6)


def test_every_row_is_read_and_written_once() -> None:
    rows, length, heads, width = 4, 512, 2, 64
    x = jax.ShapeDtypeStruct((rows, length, heads, width), jnp.float32)
    segment = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    bounds = [jnp.zeros(rows * length // 128, jnp.int32)] * 2

    def forward(q, k, v, segment):
        return packed_attention(q, k, v, segment, implementation="pallas_tpu")

    with tpu.interpreted():
        found = moved(forward, x, x, x, segment, scalars=[bounds])
    once = rows * length * heads * width * 4
    assert sorted(one.bytes for one in found)[-4:] == [once] * 4  # q, k, v and the output
    assert sum(one.bytes for one in found) <= 1.05 * 4 * once
