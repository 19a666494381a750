"""How packed rows lie in the memory of a TPU: whole rows on chip, cut into square tiles of the score matrix.

A step of the grid holds a few rows and as many heads as fill a register's lanes. Their queries, keys and values are
read once. Inside, each block of queries meets the blocks of keys from the first to the last that one of its tokens may
see; both are found beforehand, so no other tile costs anything.

Scores are held transposed, keys down and queries across: all that belongs to a query (which columns it sees, its time,
its largest score) is then a row of lanes.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.packed_attention import bias
from mdrec_kernels.packed_attention.plan import reach
from mdrec_kernels.packed_attention.spec import Places, Spec

STEP_COLUMNS = 512
"""A step of the grid takes several rows as long as they have no more columns than this together."""

LARGEST_TABLE = 128
"""Buckets of a time bias that one register holds. No int32 falls into a later one than 62."""


@dataclass(frozen=True)
class Layout:
    """Sizes, all static.

    Args:
        rows, length, heads, width: of the padded arrays [R, T, H, K].
        tile: queries and keys of a tile; divides `length`.
        together: heads of a step; divides `heads`.
        step_rows: rows of a step; divides `rows`.
        bands: how many tiles a block of queries may lie behind its keys, and none.
    """

    rows: int
    length: int
    heads: int
    width: int
    tile: int
    together: int
    step_rows: int
    bands: int

    @property
    def blocks(self) -> int:
        return self.length // self.tile

    @property
    def groups(self) -> int:
        return self.heads // self.together

    @property
    def lanes(self) -> int:
        return self.together * self.width


def layout(shape: tuple[int, ...], window: int | None, tile: int) -> Layout:
    """The layout of rows [R, T, H, K]."""
    rows, length, heads, width = shape
    length = tpu.round_up(length, tile)
    whole = (n for n in range(1, heads) if heads % n == 0 and n * width % tpu.LANES == 0)
    behind = length if window is None else window - 1
    return Layout(
        rows=rows,
        length=length,
        heads=heads,
        width=width,
        tile=tile,
        together=next(whole, heads),
        step_rows=max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * length <= STEP_COLUMNS)),
        bands=min(length // tile, -(-behind // tile) + 1),
    )


def tile_bounds(
    segment: Int[Array, "R T"], spec: Spec, tile: int
) -> tuple[Int[Array, "R T"], Int[Array, "R T"], Int[Array, "R n"], Int[Array, "R n"]]:
    """First and last column that each query sees; first and last block of keys that each block of queries meets.

    A block of padding meets blocks T / tile to -1: none.
    """
    low, high = reach(segment, spec)
    blocks = (segment.shape[0], -1, tile)
    return low, high, low.reshape(blocks).min(-1) // tile, high.reshape(blocks).max(-1) // tile


def executed(segment: Int[Array, "R T"], spec: Spec, tile: int) -> int:
    """How many tiles of scores a head computes."""
    _, _, first, last = tile_bounds(segment, spec, tile)
    return int(jnp.maximum(last - first + 1, 0).sum())


def lines(places: Places, low: Array, high: Array, sizes: Layout) -> Int[Array, "R n c t"]:
    """What the tiles know of their tokens: first and last column seen, and the times, if there are any."""
    values = [low, high]
    if places.query_time is not None and places.key_time is not None:
        values += [places.query_time, places.key_time]
    blocks = sizes.rows, sizes.blocks, sizes.tile
    return jnp.stack([value.astype(jnp.int32).reshape(blocks) for value in values], axis=2)


def fold(x: Float[Array, "R L H K"], sizes: Layout) -> Float[Array, "R T lanes"]:
    """Rows of whole tiles, the heads side by side."""
    return tpu.pad(x.reshape(*x.shape[:2], -1), 1, sizes.tile)


def unfold(x: Float[Array, "R T lanes"], shape: tuple[int, ...]) -> Float[Array, "R L H K"]:
    return x[:, : shape[1]].reshape(shape)


def diagonals(table: Float[Array, "h P"], sizes: Layout) -> Float[Array, "h bands 1 u"]:
    """The position bias along the 2 t diagonals of a tile that lies b tiles behind its keys.

    Entry u of band b is the bias of tokens b t + u - t apart.
    """
    return table[:, _distance(table.shape[1], sizes)][:, :, None, :]


def diagonals_gradient(diagonal: Float[Array, "h bands 1 u"], sizes: Layout, distances: int) -> Float[Array, "h P"]:
    """The transpose of `diagonals`."""
    place = _distance(distances, sizes)
    return jnp.zeros((diagonal.shape[0], distances), diagonal.dtype).at[:, place].add(diagonal[:, :, 0, :])


def _distance(distances: int, sizes: Layout) -> Int[Array, "bands u"]:
    tile = sizes.tile
    first = jnp.arange(sizes.bands, dtype=jnp.int32)[:, None] * tile - tile
    return bias.distance_bucket(first + jnp.arange(2 * tile, dtype=jnp.int32)[None, :], distances)
