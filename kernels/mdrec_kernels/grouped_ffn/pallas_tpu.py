"""`grouped_ffn` for TPUs: one kernel forward and one backward for each class of experts.

The grid runs over the visits of `visits.py`, as many as the counts ask for. A tile that its expert fills is computed
at once; one that experts share, in strips of `STRIP` rows, so no more than a strip an expert is computed in vain. An
output tile takes its experts' rows one after the other while it stays in VMEM; the class that comes next goes on in the
same array. The backward kernel computes the hidden layer again from x, and nothing of the size [T, f] is ever stored.

Where a class's weights do not fit into VMEM, the hidden width is cut into parts, which is exact: each part is an expert
of its own, and their outputs are added, one pass over the rows after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, DTypeLike, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.grouped_ffn.experts import Experts, bounds, hidden
from mdrec_kernels.grouped_ffn.visits import STRIP, VisitRefs, Visits, visits

ROWS = (512, 256, 128)
"""Rows of a tile, the largest that fits ..."""
VOLUME = 2**26
"""... and whose products [rows, d] [d, width] are no larger: the compiler unrolls them, and takes a second for this."""

type Buffers = list[tuple[Sequence[int], DTypeLike]]


@dataclass(frozen=True)
class Cut:
    """How a class's kernel is cut: rows of a tile, and the part of the hidden width that one pass takes."""

    rows: int
    width: int
    params: pltpu.CompilerParams


def _cut(operation: str, x: Array, experts: Experts, buffers: Callable[[int, int], tuple[Buffers, Buffers]]) -> Cut:
    """The largest part of the width that fits into VMEM, then the largest tile.

    Args:
        buffers: blocks and other buffers for (rows, width); see `tpu.compiler_params`.
    """
    parts = [w for w in range(experts.width - 1, 0, -1) if experts.width % w == 0 and w % tpu.LANES == 0]
    refused: NotImplementedError | None = None
    for width in (experts.width, *parts):
        for rows in [r for r in ROWS if r * x.shape[1] * width <= VOLUME] or ROWS[-1:]:
            rows = min(rows, tpu.round_up(x.shape[0], STRIP))
            blocks, scratch = buffers(rows, width)
            try:
                return Cut(rows, width, tpu.compiler_params(operation, ["arbitrary"], blocks=blocks, scratch=scratch))
            except NotImplementedError as reason:
                refused = reason
    assert refused is not None
    raise refused


def _forward_cut(x: Array, experts: Experts) -> Cut:
    entries, d = len(experts.entries), x.shape[1]

    def buffers(rows: int, width: int) -> tuple[Buffers, Buffers]:
        tile, weight, inner = (rows, d), (d, width), (rows, width)
        blocks = [(tile, x.dtype), *[(tile, jnp.float32)] * 2, *[(weight, x.dtype)] * (entries + 1)]
        return blocks, [*[(inner, jnp.float32)] * (entries + 1), (tile, jnp.float32)]

    return _cut("grouped_ffn, forward", x, experts, buffers)


def _backward_cut(x: Array, experts: Experts) -> Cut:
    entries, d = len(experts.entries), x.shape[1]

    def buffers(rows: int, width: int) -> tuple[Buffers, Buffers]:
        tile, weight, inner = (rows, d), (d, width), (rows, width)
        blocks = [*[(tile, x.dtype)] * 2, *[(tile, jnp.float32)] * 2]
        blocks += [*[(weight, x.dtype)] * (entries + 1), *[(weight, jnp.float32)] * (entries + 1)]
        return blocks, [*[(inner, jnp.float32)] * (2 * entries + 2), (weight, jnp.float32)]

    return _cut("grouped_ffn, backward", x, experts, buffers)


def _sums_in(x: Array, classes: tuple[Experts, ...], cuts: list[Cut]) -> jnp.dtype:
    """The type of an array of rows: x's where each row is written once, else the one that parts are added in."""
    whole = all(cut.width == experts.width for cut, experts in zip(cuts, classes, strict=True))
    return x.dtype if whole else jnp.dtype(jnp.float32)


def _dot(a: Float[Array, "m k"], b: Array, over: tuple[int, int]) -> Float[Array, "m n"]:
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


def _forward_body(*refs: Any, activation: str, rows: int, entries: int) -> None:
    """refs: 4 of the visit; x, the entries, down, the output so far; the output."""
    visit, (x, *weights, so_far, out) = VisitRefs(*refs[:4], rows=rows), refs[4:]
    down = weights.pop()

    @pl.when(visit.new_tile)
    def _() -> None:
        out[...] = so_far[...]

    def work(at: pl.Slice, own: Array) -> None:
        rows = x[at, :]
        scores = tuple(_dot(rows, w[0], (1, 0)) for w in weights[:entries])
        y = _dot(hidden(activation, scores).astype(rows.dtype), down[0], (1, 0))
        out[at, :] += jnp.where(own, y, 0).astype(out.dtype)

    visit.each_strip(work)


def _backward_body(*refs: Any, activation: str, rows: int, entries: int, given: int) -> None:
    """refs: 4 of the visit; x, dy, the entries, down, dx so far, `given` gradients; dx, and the weights' gradients."""
    visit, (x, dy, *rest) = VisitRefs(*refs[:4], rows=rows), refs[4:]
    weights, down, so_far, out = rest[:entries], rest[entries], rest[entries + 1], rest[entries + 2 + given]
    *dweights, ddown = rest[entries + 3 + given :]

    @pl.when(visit.new_tile)
    def _() -> None:
        out[...] = so_far[...]

    @pl.when(visit.new_expert)
    def _() -> None:
        for gradient in (*dweights, ddown):
            gradient[...] = jnp.zeros_like(gradient)

    def work(at: pl.Slice, own: Array) -> None:
        rows, drows = jnp.where(own, x[at, :], 0), jnp.where(own, dy[at, :], 0)
        scores = tuple(_dot(rows, w[0], (1, 0)) for w in weights)
        inner, pull = jax.vjp(partial(hidden, activation), scores)
        (dscores,) = pull(_dot(drows, down[0], (1, 1)))
        dscores = tuple(d.astype(rows.dtype) for d in dscores)
        ddown[0] += _dot(inner.astype(rows.dtype), drows, (0, 0))
        for gradient, d in zip(dweights, dscores, strict=True):
            gradient[0] += _dot(rows, d, (0, 0))
        parts = [_dot(d, w[0], (1, 1)) for d, w in zip(dscores, weights, strict=True)]
        out[at, :] += sum(parts[1:], parts[0]).astype(out.dtype)

    visit.each_strip(work)


def _specs(experts: Experts, cut: Cut, part: int) -> tuple[pl.BlockSpec, list[pl.BlockSpec]]:
    """Blocks of an array of rows, and of the entries and `down`."""
    d = experts.up.shape[1]
    rows = pl.BlockSpec((cut.rows, d), lambda i, _expert, tile, *_: (tile[i], 0))
    entry = pl.BlockSpec((1, d, cut.width), lambda i, expert, *_: (expert[i], 0, part))
    down = pl.BlockSpec((1, cut.width, d), lambda i, expert, *_: (expert[i], part, 0))
    return rows, [*(entry for _ in experts.entries), down]


def _arguments(plan: Visits) -> tuple[Array, ...]:
    return plan.expert, plan.tile, plan.start, plan.stop


def _forward_class(
    x: Float[Array, "T d"],
    experts: Experts,
    bound: tuple[Array, Array],
    out: Float[Array, "T d"],
    cut: Cut,
    activation: str,
    interpret: bool,
) -> Float[Array, "T d"]:
    """`out` with the rows of a class added."""
    entries = len(experts.entries)
    plan = visits(*bound, x.shape[0], cut.rows, every=False)
    for part in range(experts.width // cut.width):
        rows, weights = _specs(experts, cut, part)
        call = pl.pallas_call(
            partial(_forward_body, activation=activation, rows=cut.rows, entries=entries),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4,
                grid=(plan.number,),
                in_specs=[rows, *weights, rows],
                out_specs=rows,
            ),
            out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
            input_output_aliases={4 + 1 + entries + 1: 0},
            compiler_params=cut.params,
            interpret=interpret,
            name="grouped_ffn_forward",
        )
        out = call(*_arguments(plan), x, *experts.entries, experts.down, out)
    return out


def _backward_class(
    x: Float[Array, "T d"],
    dy: Float[Array, "T d"],
    experts: Experts,
    bound: tuple[Array, Array],
    dx: Float[Array, "T d"],
    cut: Cut,
    activation: str,
    interpret: bool,
) -> tuple[Float[Array, "T d"], list[Array]]:
    """`dx` with the rows of a class added, and the gradients of its entries and `down`."""
    entries = len(experts.entries)
    plan = visits(*bound, x.shape[0], cut.rows, every=True)
    gradients: list[Array] = []
    for part in range(experts.width // cut.width):
        rows, weights = _specs(experts, cut, part)
        # The first part leaves the other parts' columns of the gradients open; the next ones fill them in.
        given = len(gradients)
        before = 4 + 2 + entries + 1
        call = pl.pallas_call(
            partial(_backward_body, activation=activation, rows=cut.rows, entries=entries, given=given),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4,
                grid=(plan.number,),
                in_specs=[rows, rows, *weights, rows, *[pl.BlockSpec(memory_space=pl.ANY)] * given],
                out_specs=[rows, *weights],
            ),
            out_shape=[
                jax.ShapeDtypeStruct(dx.shape, dx.dtype),
                *(jax.ShapeDtypeStruct(w.shape, jnp.float32) for w in (*experts.entries, experts.down)),
            ],
            input_output_aliases={before + i: i for i in range(given + 1)},
            compiler_params=cut.params,
            interpret=interpret,
            name="grouped_ffn_backward",
        )
        dx, *gradients = call(*_arguments(plan), x, dy, *experts.entries, experts.down, dx, *gradients)
    return dx, gradients


def _read_as(classes: tuple[Experts, ...], dtype: jnp.dtype) -> tuple[Experts, ...]:
    return jax.tree.map(lambda w: w.astype(dtype), classes)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _apply(
    x: Float[Array, "T d"], counts: Int[Array, "E"], classes: tuple[Experts, ...], activation: str, interpret: bool
) -> Float[Array, "T d"]:
    cuts = [_forward_cut(x, experts) for experts in classes]
    out = jnp.zeros(x.shape, _sums_in(x, classes, cuts))
    for experts, bound, cut in zip(_read_as(classes, x.dtype), bounds(counts, classes), cuts, strict=True):
        out = _forward_class(x, experts, bound, out, cut, activation, interpret)
    return out.astype(x.dtype)


def _save(
    x: Array, counts: Array, classes: tuple[Experts, ...], activation: str, interpret: bool
) -> tuple[Array, tuple]:
    return _apply(x, counts, classes, activation, interpret), (x, counts, classes)


def _backward(activation: str, interpret: bool, saved: tuple, dy: Float[Array, "T d"]) -> tuple:
    x, counts, classes = saved
    cuts = [_backward_cut(x, experts) for experts in classes]
    dx, found = jnp.zeros(x.shape, _sums_in(x, classes, cuts)), []
    for experts, bound, cut in zip(classes, bounds(counts, classes), cuts, strict=True):
        (own,) = _read_as((experts,), x.dtype)
        dx, (*entries, down) = _backward_class(x, dy, own, bound, dx, cut, activation, interpret)
        found.append(experts.like(tuple(entries), down))
    return dx.astype(x.dtype), None, tuple(found)


_apply.defvjp(_save, _backward)


def forward(
    x: Float[Array, "T d"], counts: Int[Array, "E"], classes: tuple[Experts, ...], activation: str
) -> Float[Array, "T d"]:
    """The outputs; see `reference.forward`.

    Raises:
        NotImplementedError: the platform is no TPU; x is of a type that a TPU does not multiply; an expert's weights
            fit into VMEM neither whole nor in parts.
    """
    interpret = tpu.interpret()
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"rows of {x.dtype}: the kernel takes float32 and bfloat16")
    for experts in classes:
        _forward_cut(x, experts)
        _backward_cut(x, experts)
    return _apply(x, counts, classes, activation, interpret)
