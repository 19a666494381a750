"""The memory scan in plain XLA: block by block, as many tokens at once as fit into the caches.

For the backward pass the states are kept that the chunks start with, or where those are larger than the values, the
ones that the blocks start with. All else is made again.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.delta_memory_scan import delta
from mdrec_kernels.delta_memory_scan.block import Block, StateGradients
from mdrec_kernels.delta_memory_scan.places import openings
from mdrec_kernels.delta_memory_scan.spec import PADDING, Inputs, Spec


@dataclass(frozen=True)
class Tile:
    """How many rows and chunks a block holds."""

    rows: int
    chunks: int


def tile(spec: Spec, inputs: Inputs) -> Tile:
    """On a CPU, arrays of half a MiB; elsewhere few, large operations."""
    rows, length, _ = inputs.q.shape
    _, size, value = inputs.state.shape
    widest = max(size, value, spec.chunk)
    tokens = (512 << 10 if dispatch.platform() == "cpu" else 64 << 20) // (4 * widest)
    chunks = length // spec.chunk
    blocks = max(1, -(-length // max(tokens, spec.chunk)))
    groups = -(-rows // max(1, tokens // max(1, length)))
    return Tile(max(1, -(-rows // max(1, groups))), max(1, -(-chunks // blocks)))


def scan(
    spec: Spec, inputs: Inputs, place: Int[Array, "R T"], tile_: Tile | None = None
) -> tuple[Float[Array, "R T V"], Float[Array, "R K V"]]:
    """What `delta_memory_scan` returns; the tile is by default the platform's."""
    size = tile_ or tile(spec, inputs)
    rows, length = place.shape
    inputs, place = _filled(spec, size, inputs, place)
    out, state = _scan(spec, size, inputs, place)
    return out[:rows, :length], state[:rows]


def _filled(spec: Spec, tile: Tile, inputs: Inputs, place: Array) -> tuple[Inputs, Array]:
    """Padding, up to whole blocks."""
    rows, columns = (-n % m for n, m in zip(place.shape, (tile.rows, tile.chunks * spec.chunk), strict=True))

    def fill(x: Array, *missing: int) -> Array:
        return jnp.pad(x, [(0, n) for n in missing] + [(0, 0)] * (x.ndim - len(missing))) if any(missing) else x

    counts, both = fill(place, rows, columns) != PADDING, (rows, columns)
    write, fade = (jnp.where(counts, fill(x, *both), 0) for x in (inputs.write, inputs.fade))
    q, k, value = (fill(x, *both) for x in (inputs.q, inputs.k, inputs.value))
    return Inputs(q, k, value, write, fade, fill(inputs.state, rows)), fill(place, *both)


def _cut(x: Array, tile: Tile, columns: int) -> Array:
    """[R, T, ...] -> [groups of rows, blocks, G, columns, ...]."""
    x = x.reshape(x.shape[0] // tile.rows, tile.rows, x.shape[1] // columns, columns, *x.shape[2:])
    return x.swapaxes(1, 2)


def _uncut(x: Array, tile: Tile, columns: int) -> Array:
    """The inverse of `_cut`, from [groups, blocks, G, n, C, ...]."""
    x = x.swapaxes(1, 2)
    return x.reshape(x.shape[0] * tile.rows, x.shape[2] * columns, *x.shape[5:])


def _blocks(spec: Spec, tile: Tile, inputs: Inputs, place: Array) -> tuple[Block, Array]:
    """Blocks, with leading axes for groups of rows and for the blocks of a group; and what segments start from."""

    def tokens(x: Array) -> Array:
        x = _cut(x, tile, tile.chunks * spec.chunk)
        return x.reshape(*x.shape[:3], tile.chunks, spec.chunk, *x.shape[4:])

    q, k, value, write, fade = (tokens(x) for x in (inputs.q, inputs.k, inputs.value, inputs.write, inputs.fade))
    opens = _cut(openings(place, spec.chunk), tile, tile.chunks)
    start = inputs.state.reshape(-1, tile.rows, *inputs.state.shape[1:])
    return Block(q, k, value, write, fade, tokens(place != PADDING), opens), start


def _forward(spec: Spec, tile: Tile, inputs: Inputs, place: Array) -> tuple[Array, Array, Array]:
    """Outputs, the state at the end, and the states kept [groups, blocks, G, chunks or 1, M, V]."""
    kept = tile.chunks if inputs.state.shape[1] <= spec.chunk else 1

    def group(of: tuple[Block, Array]) -> tuple:
        blocks, start = of

        def step(state: Array, block: Block) -> tuple:
            out, after, states = delta.forward(spec, block, start, state)
            return after, (out, states[:, :kept])

        return jax.lax.scan(step, start, blocks)

    state, (out, states) = jax.lax.map(group, _blocks(spec, tile, inputs, place))
    return _uncut(out, tile, tile.chunks * spec.chunk), state.reshape(inputs.state.shape), states


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(spec: Spec, tile: Tile, inputs: Inputs, place: Array) -> tuple[Array, Array]:
    return _forward(spec, tile, inputs, place)[:2]


def _scan_forward(spec: Spec, tile: Tile, inputs: Inputs, place: Array) -> tuple:
    out, state, states = _forward(spec, tile, inputs, place)
    return (out, state), (inputs, place, states)


def _scan_backward(spec: Spec, tile: Tile, kept: tuple, d: tuple[Array, Array]) -> tuple[Inputs, None]:
    inputs, place, states = kept
    columns = tile.chunks * spec.chunk
    d_out = _cut(d[0], tile, columns)
    d_out = d_out.reshape(*d_out.shape[:3], tile.chunks, spec.chunk, -1)
    d_states = d[1].reshape(-1, tile.rows, *d[1].shape[1:])

    # Zeros that, inside `jax.shard_map`, differ between devices where the rows do.
    zero = (0 * place[0, 0]).astype(inputs.dtype)

    def group(of: tuple) -> tuple:
        blocks, start, states, d_out, d_state = of

        def step(d_after: StateGradients, at: tuple) -> tuple:
            block, states, d_out = at
            gradients, d_before = delta.backward(spec, block, start, states, d_out, d_after)
            narrow = (x.astype(block.q.dtype) for x in (gradients.q, gradients.k, gradients.value))
            return d_before, (*narrow, gradients.write, gradients.fade)

        begin = StateGradients(d_state, jnp.full(d_state.shape, zero))
        d_before, found = jax.lax.scan(step, begin, (blocks, states, d_out), reverse=True)
        return d_before.state + d_before.start, found

    blocks, start = _blocks(spec, tile, inputs, place)
    d_start, found = jax.lax.map(group, (blocks, start, states, d_out, d_states))
    q, k, value, write, fade = (_uncut(x, tile, columns) for x in found)
    return Inputs(q, k, value, write, fade, d_start.reshape(inputs.state.shape)), None


_scan.defvjp(_scan_forward, _scan_backward)
