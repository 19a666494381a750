"""How the kernels for TPUs cut their arrays, and which chunk of a piece opens a segment.

A grid step takes a block of rows and columns; inside it, a row goes through its block piece by piece. A piece is a
whole chunk, or as many chunks as fill the 128 lanes in which the tokens' numbers lie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int, Shaped
from mdrec_kernels import tpu
from mdrec_kernels.delta_memory_scan.places import NONE
from mdrec_kernels.delta_memory_scan.spec import OPENING, PADDING, TOKEN, Inputs, Spec

SUBLANES = 8
COLUMNS = 512
"""Tokens of a row a grid step: with one state of K rows kept for them, little is added to what they read and write."""
STREAMS = 28 * 2**20
"""Bytes of VMEM for the blocks of q, k, value and their like, two of each."""


@dataclass(frozen=True)
class Cut:
    """Rows and columns of a block, columns of a piece."""

    rows: int
    columns: int
    piece: int
    chunk: int

    @property
    def pieces(self) -> int:
        return self.columns // self.piece

    @property
    def chunks(self) -> int:
        """Chunks of a piece."""
        return self.piece // self.chunk


def cut(spec: Spec, inputs: Inputs) -> Cut:
    """Raises NotImplementedError for chunks that do not fill whole lanes."""
    rows, length, width = inputs.q.shape
    chunk, least = spec.chunk, SUBLANES * max(1, 4 // inputs.q.dtype.itemsize)
    if chunk % least or (tpu.LANES % chunk and chunk % tpu.LANES):
        raise NotImplementedError(
            f"the chunk must be a multiple of {least}, and divide 128 or be one of it; found {chunk}"
        )
    if inputs.q.dtype.itemsize > 4:
        raise NotImplementedError("TPUs have no float64")
    if width % SUBLANES:
        raise NotImplementedError(f"keys must have a width that is a multiple of 8, found {width}")
    piece, rows = max(chunk, tpu.LANES), min(rows, SUBLANES)
    # Backward: q, k, value, and of each its gradient, and the outputs' gradient.
    streams = 4 * tpu.vmem_bytes((rows, piece, width), inputs.q.dtype)
    streams += 3 * tpu.vmem_bytes((rows, piece, inputs.value.shape[2]), inputs.q.dtype)
    most = max(1, min(COLUMNS // piece, STREAMS // (2 * streams)))
    pieces = -(-length // piece)
    return Cut(rows, piece * max(n for n in range(1, most + 1) if pieces % n == 0), piece, chunk)


def each(n: int, body: Callable[[Array], None]) -> None:
    """body(i) for i < n."""

    def step(i: Array, carry: None) -> None:
        body(i)
        return carry

    jax.lax.fori_loop(0, n, step, None)


def span(i: Any, size: int) -> Any:
    """The i-th run of `size`."""
    return pl.ds(pl.multiple_of(i * size, size), size)


def take_row(ref: Any, row: Array, at: Any) -> Shaped[Array, "1 P"]:
    """ref[row, at] of numbers [G, W]: a sum over the rows of a register, where the compiler has no load."""
    tile = ref[:, at]
    return jnp.where(_row(tile, row), tile, 0).sum(axis=0, keepdims=True)


def put_row(ref: Any, row: Array, at: Any, x: Shaped[Array, "1 *"]) -> None:
    """ref[row, at] = x"""
    tile = ref[:, at]
    ref[:, at] = jnp.where(_row(tile, row), jnp.broadcast_to(x, tile.shape), tile)


def last_segment(ref: Any, row: Array) -> Int[Array, "1 1"]:
    """The segment of the last chunk of a row that holds one."""
    return take_row(ref, row, span(0, tpu.LANES))[:, :1]


def _row(tile: Array, row: Array) -> Bool[Array, "G P"]:
    return jax.lax.broadcasted_iota(jnp.int32, tile.shape, 0) == row


def lanes_of(chunk: int, cut: Cut) -> Bool[Array, "1 P"]:
    """Which columns of a piece belong to its chunk of that number."""
    column = jax.lax.broadcasted_iota(jnp.int32, (1, cut.piece), 1)
    return (column >= chunk * cut.chunk) & (column < (chunk + 1) * cut.chunk)


def opening(
    segment: Int[Array, "1 P"], inside: Bool[Array, "1 P"], last: Int[Array, "1 1"]
) -> tuple[Int[Array, "1 P"], Int[Array, "1 1"]]:
    """What `places` says of a chunk's columns, PADDING elsewhere; and the last segment for the next chunk."""
    own = jnp.where(inside & (segment > 0), segment, NONE).min(axis=1, keepdims=True)
    kind = jnp.where((own < NONE) & (own != last), OPENING, TOKEN)
    place = jnp.where(inside & (segment == own), jnp.broadcast_to(kind, segment.shape), PADDING)
    return place, jnp.where(own < NONE, own, last)


def begin(place: Int[Array, "1 P"], start: Float[Array, "M V"], state: Float[Array, "M V"]) -> Float[Array, "M V"]:
    """The state that a chunk starts with, from what stands in its columns."""
    return jnp.where(jnp.broadcast_to(opens(place), state.shape) == OPENING, start, state)


def opens(place: Int[Array, "1 P"]) -> Int[Array, "1 1"]:
    """OPENING where the chunk opens a segment."""
    return place.max(axis=1, keepdims=True)
