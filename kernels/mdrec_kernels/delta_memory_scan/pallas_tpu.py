"""The memory scan as kernels for TPUs: a block of rows goes through its columns with the state in VMEM.

The forward kernel reads the tokens, writes the outputs, and for a backward pass also the state before each block of
columns. The backward kernel takes the blocks from the last to the first, makes the states of a block's chunks again
and goes back through them; gradients of the state stay in VMEM.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.delta_memory_scan import tpu_delta
from mdrec_kernels.delta_memory_scan.places import NONE
from mdrec_kernels.delta_memory_scan.spec import Inputs, Spec
from mdrec_kernels.delta_memory_scan.tpu_cut import Cut, cut, each
from mdrec_kernels.delta_memory_scan.tpu_refs import Backward, Forward

OPERATION = "delta_memory_scan"


def scan(spec: Spec, inputs: Inputs, segment: Int[Array, "R T"]) -> tuple[Float[Array, "R T V"], Float[Array, "R K V"]]:
    """What `delta_memory_scan` returns.

    Raises:
        NotImplementedError: no TPU and not interpreted, or shapes that the kernels do not take.
    """
    interpret, size = tpu.interpret(), cut(spec, inputs)
    rows, length = segment.shape

    def fill(x: Array) -> Array:
        return tpu.pad(tpu.pad(x, 0, size.rows), 1, size.columns)

    q, k, value, write, fade = (fill(x) for x in (inputs.q, inputs.k, inputs.value, inputs.write, inputs.fade))
    filled = Inputs(q, k, value, write, fade, tpu.pad(inputs.state, 0, size.rows))
    out, state = _scan(spec, size, interpret, filled, fill(segment.astype(jnp.int32)))
    return out[:rows, :length], state[:rows]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(spec: Spec, size: Cut, interpret: bool, inputs: Inputs, segment: Array) -> tuple[Array, Array]:
    return _forward(spec, size, interpret, False, inputs, segment)[:2]


def _scan_forward(spec: Spec, size: Cut, interpret: bool, inputs: Inputs, segment: Array) -> tuple:
    out, state, place, states = _forward(spec, size, interpret, True, inputs, segment)
    return (out, state), (inputs, place, states)


def _scan_backward(spec: Spec, size: Cut, interpret: bool, kept: tuple, d: tuple) -> tuple[Inputs, None]:
    return _backward(spec, size, interpret, *kept, *d), None


_scan.defvjp(_scan_forward, _scan_backward)


class _Specs:
    """The blocks of arrays; `column` maps the grid's second axis to a block of columns."""

    def __init__(self, size: Cut, inputs: Inputs, column: Callable[[Any], Any]):
        self._rows, self._columns, self._column = size.rows, size.columns, column
        self.state = pl.BlockSpec((size.rows, *inputs.state.shape[1:]), lambda i, j: (i, 0, 0))
        of_blocks = size.rows, None, *inputs.state.shape[1:]
        self.states = pl.BlockSpec(of_blocks, lambda i, j: (i, column(j), 0, 0))
        self.number = pl.BlockSpec((size.rows, size.columns), lambda i, j: (i, column(j)))

    def tokens(self, x: Array) -> pl.BlockSpec:
        shape = self._rows, self._columns, x.shape[2]
        return pl.BlockSpec(shape, lambda i, j: (i, self._column(j), 0))


def _forward(spec: Spec, size: Cut, interpret: bool, keep: bool, inputs: Inputs, segment: Array) -> tuple:
    """Outputs and the state; and if `keep`, what stands in the columns and the states before the blocks."""
    rows, length = segment.shape
    blocks = length // size.columns
    specs = _Specs(size, inputs, lambda j: j)
    arrays = {
        "q": (inputs.q, specs.tokens(inputs.q)),
        "k": (inputs.k, specs.tokens(inputs.k)),
        "value": (inputs.value, specs.tokens(inputs.value)),
        "segment": (segment, specs.number),
        "write": (inputs.write, specs.number),
        "fade": (inputs.fade, specs.number),
        "start": (inputs.state, specs.state),
    }
    results = {
        "out": (jax.ShapeDtypeStruct(inputs.value.shape, inputs.q.dtype), specs.tokens(inputs.value)),
        "state": (jax.ShapeDtypeStruct(inputs.state.shape, jnp.float32), specs.state),
    }
    if keep:
        states = rows, blocks, *inputs.state.shape[1:]
        results["place"] = jax.ShapeDtypeStruct(segment.shape, jnp.int32), specs.number
        results["states"] = jax.ShapeDtypeStruct(states, jnp.float32), specs.states
    scratch = {"last": ((size.rows, tpu.LANES), jnp.int32)}
    grid = rows // size.rows, blocks
    found = _call(partial(_forward_body, spec, size), grid, arrays, results, scratch, interpret)
    return found["out"], found["state"], found.get("place"), found.get("states")


def _forward_body(spec: Spec, size: Cut, buffers: dict[str, Any]) -> None:
    refs = Forward(**{"place": None, "states": None} | buffers)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        refs.state[...] = refs.start[...]
        refs.last[...] = jnp.full(refs.last.shape, NONE, jnp.int32)

    if refs.states is not None:
        refs.states[...] = refs.state[...]
    each(size.rows, lambda row: each(size.pieces, lambda piece: tpu_delta.forward(spec, size, refs, row, piece)))


def _backward(
    spec: Spec, size: Cut, interpret: bool, inputs: Inputs, place: Array, states: Array, d_out: Array, d_end: Array
) -> Inputs:
    """The gradient of everything in `inputs`."""
    rows, length = place.shape
    blocks = length // size.columns
    specs = _Specs(size, inputs, lambda j: blocks - 1 - j)
    arrays = {
        "q": (inputs.q, specs.tokens(inputs.q)),
        "k": (inputs.k, specs.tokens(inputs.k)),
        "value": (inputs.value, specs.tokens(inputs.value)),
        "place": (place, specs.number),
        "write": (inputs.write, specs.number),
        "fade": (inputs.fade, specs.number),
        "start": (inputs.state, specs.state),
        "before": (states, specs.states),
        "d_out": (d_out, specs.tokens(d_out)),
        "d_end": (d_end, specs.state),
    }
    results: dict[str, tuple[Any, Any]] = {
        f"d_{name}": arrays[name] for name in ("q", "k", "value", "write", "fade", "start")
    }
    state = inputs.state.shape[1:]
    scratch = {
        "d_state": ((size.rows, *state), jnp.float32),
        "carry": (state, jnp.float32),
        "states": ((size.columns // size.chunk, *state), jnp.float32),
    }
    grid = rows // size.rows, blocks
    d = _call(partial(_backward_body, spec, size), grid, arrays, results, scratch, interpret)
    return Inputs(d["d_q"], d["d_k"], d["d_value"], d["d_write"], d["d_fade"], d["d_start"])


def _backward_body(spec: Spec, size: Cut, buffers: dict[str, Any]) -> None:
    refs = Backward(**buffers)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        refs.d_state[...] = refs.d_end[...]
        refs.d_start[...] = jnp.zeros(refs.d_start.shape, jnp.float32)

    def back(row: Array) -> None:
        refs.carry[...] = refs.before[row]
        each(size.pieces, lambda piece: tpu_delta.again(spec, size, refs, row, piece))
        each(size.pieces, lambda piece: tpu_delta.backward(spec, size, refs, row, size.pieces - 1 - piece))

    each(size.rows, back)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        refs.d_start[...] += refs.d_state[...]


def _call(
    body: Callable[[dict[str, Any]], None],
    grid: tuple[int, int],
    arrays: dict[str, tuple[Any, Any]],
    results: dict[str, tuple[Any, Any]],
    scratch: dict[str, tuple[tuple[int, ...], Any]],
    interpret: bool,
) -> dict[str, Array]:
    """body({name: buffer}) over the grid. Arrays and results come with their blocks."""
    blocks = [(tuple(n or 1 for n in spec.block_shape), x.dtype) for x, spec in (*arrays.values(), *results.values())]
    found = pl.pallas_call(
        lambda *refs: body(dict(zip((*arrays, *results, *scratch), refs, strict=True))),
        grid=grid,
        in_specs=[spec for _, spec in arrays.values()],
        out_specs=[spec for _, spec in results.values()],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in results.values()],
        scratch_shapes=[pltpu.VMEM(*buffer) for buffer in scratch.values()],
        compiler_params=tpu.compiler_params(
            OPERATION, ["parallel", "arbitrary"], blocks=blocks, scratch=scratch.values()
        ),
        interpret=interpret,
        name=OPERATION,
    )(*(x for x, _ in arrays.values()))
    return dict(zip(results, found, strict=True))
