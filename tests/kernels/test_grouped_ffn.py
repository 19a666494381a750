"""Every form of `grouped_ffn` is the formula, for any counts, and so are its gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.test_util import check_grads
from mdrec_kernels import tpu
from mdrec_kernels.grouped_ffn import Experts, Tiling, grouped_ffn
from mdrec_kernels.grouped_ffn.shapes import SHAPES

from tests.kernels.ffn_cases import abstract, distance, make_experts, make_rows, step

TILINGS = {
    "whole and rest": Tiling(32, rest=8),
    "larger than the rows": Tiling(256, rest=32),
    "one size": Tiling(16),
    "three together": Tiling(16, together=3),
    "all together": Tiling(16, together=100),
}
COUNTS, ROWS, WIDTH = [50, 0, 33, 1, 40], 131, 16
FORMS = pytest.mark.parametrize("implementation", ["xla", "pallas_tpu"])


def mixed_classes() -> tuple[Experts, ...]:
    """A class with a gate beside a wider one without."""
    return (*make_experts(WIDTH, [(3, 24)], True), *make_experts(WIDTH, [(2, 40)], False))


def one_class() -> tuple[Experts, ...]:
    return make_experts(WIDTH, [(5, 24)], True)


def run(x, counts, classes, dy, **options):
    """Outputs and gradients, compiled; kernels for TPUs are interpreted."""
    with tpu.interpreted():
        return jax.jit(partial(step, **options))(x, jnp.asarray(counts, jnp.int32), classes, dy)


@cache
def expected():
    x, dy = make_rows(ROWS, WIDTH), make_rows(ROWS, WIDTH, 2)
    return run(x, COUNTS, mixed_classes(), dy, implementation="reference")


def by_hand(x, counts, classes) -> np.ndarray:
    """One row after the other, with silu."""
    every = [jax.tree.map(lambda w, i=i: np.asarray(w[i]), c) for c in classes for i in range(c.number)]
    out, t = np.zeros(x.shape), 0
    silu = lambda u: u / (1 + np.exp(-u))  # noqa: E731
    for experts, count in zip(every, counts, strict=True):
        for row in np.asarray(x[t : t + count]):
            inner = silu(row @ experts.up) if experts.gate is None else silu(row @ experts.gate) * (row @ experts.up)
            out[t] = inner @ experts.down
            t += 1
    return out


def test_the_formula_by_hand() -> None:
    got = expected()[0]
    np.testing.assert_allclose(got, by_hand(make_rows(ROWS, WIDTH), COUNTS, mixed_classes()), atol=2e-6)
    assert not np.any(np.asarray(got[124:]))


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
def test_outputs_and_gradients_are_the_formulas(tiling) -> None:
    x, dy = make_rows(ROWS, WIDTH), make_rows(ROWS, WIDTH, 2)
    assert distance(run(x, COUNTS, mixed_classes(), dy, tiling=tiling), expected()) < 2e-6


def test_the_kernels_are_the_formula() -> None:
    x, dy = make_rows(ROWS, WIDTH), make_rows(ROWS, WIDTH, 2)
    assert distance(run(x, COUNTS, mixed_classes(), dy, implementation="pallas_tpu"), expected()) < 2e-6


@FORMS
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_other_activations(activation, implementation) -> None:
    x, dy = make_rows(ROWS, WIDTH), make_rows(ROWS, WIDTH, 2)
    got, formula = (
        run(x, [90, 40], make_experts(WIDTH, [(2, 24)], False), dy, implementation=i, activation=activation)
        for i in (implementation, "reference")
    )
    assert distance(got, formula) < 2e-6


@pytest.mark.parametrize("rows", [1100, 512])
def test_kernels_of_several_tiles_some_of_one_expert_alone(rows) -> None:
    classes, x, dy = make_experts(WIDTH, [(3, 24)], True), make_rows(rows, WIDTH), make_rows(rows, WIDTH, 2)
    counts = [rows - 30, 0, 29]
    got, formula = (run(x, counts, classes, dy, implementation=i) for i in ("pallas_tpu", "reference"))
    assert distance(got, formula) < 2e-6


def test_wide_experts_are_computed_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(tpu, "VMEM_BUDGET", 2**21)
    classes, x, dy = make_experts(128, [(2, 384)], True), make_rows(200, 128), make_rows(200, 128, 2)
    got, formula = (run(x, [90, 77], classes, dy, implementation=i) for i in ("pallas_tpu", "reference"))
    assert distance(got, formula) < 2e-6
    monkeypatch.setattr(tpu, "VMEM_BUDGET", 2**18)
    with pytest.raises(NotImplementedError, match="VMEM"):
        run(x, [90, 77], classes, dy, implementation="pallas_tpu")


@jax.jit
def traced(x, counts, classes, dy):
    """One program for all counts."""
    return step(x, counts, classes, dy, tiling=Tiling(16, rest=4)), step(
        x, counts, classes, dy, tiling=Tiling(8, together=4)
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, 70) | st.sampled_from([0, 1, 15, 16, 17, ROWS]), min_size=5, max_size=5))
def test_no_row_is_dropped_whatever_the_counts_are(counts) -> None:
    ends = np.minimum(np.cumsum(counts), ROWS)
    counts = np.diff(ends, prepend=0)
    x, classes = make_rows(ROWS, WIDTH), mixed_classes()
    rows = by_hand(x, counts, classes)
    forms = traced(x, jnp.asarray(counts, jnp.int32), classes, make_rows(ROWS, WIDTH, 2))
    for y, dx, _ in forms:
        np.testing.assert_allclose(y, rows, atol=2e-6)
        assert np.all(np.any(np.asarray(dx) != 0, axis=1) == (np.arange(ROWS) < ends[-1]))
    assert distance(*forms) < 2e-6


@jax.jit
def by_kernels(x, counts, classes, dy):
    """One program for all counts."""
    return step(x, counts, classes, dy, implementation="pallas_tpu")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, 400) | st.sampled_from([0, 1, 511, 512, 513]), min_size=5, max_size=5))
def test_nor_do_the_kernels_drop_one(counts) -> None:
    rows = 1100  # in tiles of 512
    ends = np.minimum(np.cumsum(counts), rows)
    counts, classes = np.diff(ends, prepend=0), mixed_classes()
    x, dy = make_rows(rows, WIDTH), make_rows(rows, WIDTH, 2)
    with tpu.interpreted():
        found = by_kernels(x, jnp.asarray(counts, jnp.int32), classes, dy)
    np.testing.assert_allclose(found[0], by_hand(x, counts, classes), atol=2e-6)
    assert np.all(np.any(np.asarray(found[1]) != 0, axis=1) == (np.arange(rows) < ends[-1]))
    assert distance(found, traced(x, jnp.asarray(counts, jnp.int32), classes, dy)[0]) < 2e-6


@FORMS
def test_experts_without_rows_get_a_gradient_of_zeros(implementation) -> None:
    x, classes = make_rows(ROWS, WIDTH), one_class()
    out = run(x, np.zeros(5), classes, x, implementation=implementation)
    assert all(np.all(np.asarray(a) == 0) for a in jax.tree.leaves(out))


@FORMS
def test_what_stands_in_other_rows_changes_nothing(implementation) -> None:
    # Rows of an expert 2 stay; their neighbours and the padding are no numbers at all.
    counts, classes = jnp.asarray([50, 3, 33, 1, 40]), one_class()
    x, dy = make_rows(ROWS, WIDTH), make_rows(ROWS, WIDTH, 2)
    own = ((jnp.arange(ROWS) >= 53) & (jnp.arange(ROWS) < 86))[:, None]
    with tpu.interpreted():
        both = jax.jit(partial(step, implementation=implementation, tiling=Tiling(32, rest=8)))
        first, second = (both(jnp.where(own, x, v), counts, classes, jnp.where(own, dy, v)) for v in (0.0, jnp.nan))
    for a, b in zip(first[:2], second[:2], strict=True):
        np.testing.assert_array_equal(a[53:86], b[53:86])
    assert np.isnan(second[0][:53]).all()
    for a, b in zip(jax.tree.leaves(first[2][0]), jax.tree.leaves(second[2][0]), strict=True):
        np.testing.assert_array_equal(a[2], b[2])


@FORMS
def test_huge_rows_are_no_nan(implementation) -> None:
    counts, classes = COUNTS, one_class()
    out = run(1e4 * make_rows(ROWS, WIDTH), counts, classes, make_rows(ROWS, WIDTH, 2), implementation=implementation)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(out))


@partial(jax.jit, static_argnames="counts")
def naive(x, counts, classes, dy):
    """The formula as one would write it in x's type: the experts' own rows, cut out by hand."""

    def outputs(x, classes):
        parts, t = [], 0
        every = [jax.tree.map(lambda w, i=i: w[i].astype(x.dtype), c) for c in classes for i in range(c.number)]
        for experts, count in zip(every, counts, strict=True):
            rows = x[t : t + count]
            inner = jax.nn.silu(rows @ experts.gate) * (rows @ experts.up)
            parts.append(inner @ experts.down)
            t += count
        return jnp.concatenate([*parts, jnp.zeros_like(x[t:])])

    y, pull = jax.vjp(outputs, x, classes)
    return y, *pull(dy)


@FORMS
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(implementation) -> None:
    counts, classes = (50, 33, 8), make_experts(64, [(3, 24)], True)
    classes = jax.tree.map(lambda w: w.astype(jnp.bfloat16), classes)
    x, dy = (make_rows(ROWS, 64, seed).astype(jnp.bfloat16) for seed in (1, 2))
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (x, classes, dy))
    ours = run(x, counts, classes, dy, implementation=implementation)
    truth, plain = naive(wide[0], counts, *wide[1:]), naive(x, counts, classes, dy)
    for a, b, c in zip(*(jax.tree.leaves(t) for t in (ours, plain, truth)), strict=True):
        assert a.dtype == jnp.bfloat16
        error, allowed = (np.sqrt(np.mean((np.asarray(v, np.float32) - c) ** 2)) for v in (a, b))
        assert error <= 2 * allowed


@FORMS
def test_weights_of_another_type_keep_it_in_the_gradient(implementation) -> None:
    counts, classes = [50, 0, 33, 8, 40], one_class()
    x, dy = (make_rows(ROWS, WIDTH, seed).astype(jnp.bfloat16) for seed in (1, 2))
    rounded = jax.tree.map(lambda w: w.astype(jnp.bfloat16), classes)
    mixed, low = (run(x, counts, weights, dy, implementation=implementation) for weights in (classes, rounded))
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(mixed[2]))
    for a, b in zip(jax.tree.leaves(mixed), jax.tree.leaves(low), strict=True):
        np.testing.assert_array_equal(a.astype(jnp.bfloat16), b)


def test_gradients_by_differences_in_float64() -> None:
    with jax.enable_x64(True):
        classes = jax.tree.map(lambda w: w.astype(jnp.float64), make_experts(4, [(2, 3)], True))
        x, counts = make_rows(9, 4).astype(jnp.float64), jnp.asarray([4, 3])
        f = lambda x, classes: grouped_ffn(x, counts, classes, tiling=Tiling(4))  # noqa: E731
        check_grads(f, (x, classes), order=1, modes=["rev"])


def test_few_rows_and_none() -> None:
    classes = make_experts(WIDTH, ((2, 24),), False)
    for rows in (1, 7):
        x = make_rows(rows, WIDTH)
        got, formula = (run(x, [rows - 1, 1], classes, x, implementation=i) for i in ("xla", "reference"))
        assert distance(got, formula) < 2e-6
    assert grouped_ffn(jnp.zeros((0, WIDTH)), jnp.zeros(2, jnp.int32), classes).shape == (0, WIDTH)


@pytest.mark.parametrize(("implementation", "check_vma"), [("xla", False), ("xla", True), ("pallas_tpu", False)])
def test_rows_spread_over_devices_sum_the_weights_gradients(implementation, check_vma) -> None:
    devices, rows = 4, 32
    x, dy = (make_rows(devices * rows, WIDTH, seed) for seed in (1, 2))
    counts = jnp.asarray([[5, 0, 27, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 32], [0, 0, 0, 0, 0]])
    classes = one_class()

    def local(x, counts, classes, dy):
        y, dx, dw = step(x, counts[0], classes, dy, implementation=implementation)
        # JAX has taken the sum already where it keeps track of what varies.
        return y, dx, dw if check_vma else jax.lax.psum(dw, "data")

    mesh, split, whole = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,)), jax.P("data"), jax.P()
    with tpu.interpreted():
        specs = {"in_specs": (split, split, whole, split), "out_specs": (split, split, whole)}
        mapped = jax.shard_map(local, mesh=mesh, check_vma=check_vma, **specs)
        y, dx, dw = jax.jit(mapped)(x, counts, classes, dy)
    parts = [slice(i * rows, (i + 1) * rows) for i in range(devices)]
    alone = [run(x[p], counts[i], classes, dy[p], implementation="reference") for i, p in enumerate(parts)]
    assert distance(y, jnp.concatenate([a[0] for a in alone])) < 2e-6
    assert distance(dx, jnp.concatenate([a[1] for a in alone])) < 2e-6
    assert distance(dw, jax.tree.map(lambda *a: sum(a), *[a[2] for a in alone])) < 2e-6


def test_strict_dtype_promotion_is_kept() -> None:
    x, classes = make_rows(ROWS, WIDTH).astype(jnp.bfloat16), one_class()
    with jax.numpy_dtype_promotion("strict"), tpu.interpreted():
        for options in (
            {"tiling": Tiling(32, rest=8)},
            {"tiling": Tiling(16, together=3)},
            {"implementation": "pallas_tpu"},
        ):
            jax.eval_shape(partial(step, **options), x, jnp.asarray(COUNTS), classes, x)


def test_what_does_not_fit_is_refused() -> None:
    x, classes = make_rows(ROWS, WIDTH), mixed_classes()
    fine = jnp.asarray([50, 0, 33, 1, 40])
    with pytest.raises(ValueError, match="131"):
        grouped_ffn(x, jnp.asarray([50, 0, 33, 1, 48]), classes)
    with pytest.raises(ValueError, match="a count for each"):
        grouped_ffn(x, fine[:4], classes)
    with pytest.raises(ValueError, match="activation"):
        grouped_ffn(x, fine, classes, activation="tanh")
    with pytest.raises(ValueError, match="expected weights"):
        grouped_ffn(x, fine, (Experts(classes[0].up, classes[0].up), classes[1]))
    with pytest.raises(ValueError, match="floating"):
        grouped_ffn(x.astype(jnp.int32), fine, classes)
    with pytest.raises(ValueError, match="no larger"):
        Tiling(16, rest=32)
    with pytest.raises(NotImplementedError, match="platform"):
        grouped_ffn(x, fine, classes, implementation="pallas_tpu")
    with tpu.interpreted(), pytest.raises(NotImplementedError, match="float16"):
        grouped_ffn(x.astype(jnp.float16), fine, classes, implementation="pallas_tpu")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_are_what_the_operation_accepts(shape) -> None:
    x, counts, classes = abstract(shape)
    y, dx, dw = jax.eval_shape(step, x, counts, classes, x)
    assert y.shape == dx.shape == x.shape
    assert jax.tree.map(jnp.shape, dw) == jax.tree.map(jnp.shape, classes)
