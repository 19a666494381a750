"""Which tile of rows meets which expert, in the order of a TPU kernel's grid.

Rows are cut into tiles at fixed places. A tile in which n experts have rows is visited n times, one after the other, so
it stays on the chip; an expert's visits stand side by side too, so its weights are fetched once.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from mdrec_kernels.grouped_ffn.runs import runs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Visits:
    """The visits, of which the first `number` are made."""

    number: Int[Array, ""]
    expert: Int[Array, "n"]
    tile: Int[Array, "n"]
    start: Int[Array, "n"]
    """The first row that is the expert's own in this tile ..."""
    stop: Int[Array, "n"]
    """... and the row after the last."""


def visits(starts: Int[Array, "E"], ends: Int[Array, "E"], length: int, rows: int, *, every: bool) -> Visits:
    """The visits of tiles of `rows` rows; with `every`, experts without rows make one too. There is always one."""
    tiles = -(-length // rows)
    first, last = jnp.minimum(starts // rows, tiles - 1), (ends - 1) // rows
    numbers = jnp.where(ends > starts, last - first + 1, int(every))
    expert, number, read = runs(numbers, tiles + starts.size)
    tile = jnp.clip(read(first) + number, 0, tiles - 1)
    start = jnp.maximum(read(starts), tile * rows)
    stop = jnp.maximum(start, jnp.minimum(read(ends), (tile + 1) * rows))
    return Visits(jnp.maximum(jnp.sum(numbers), 1), expert, tile, start, stop)


def rows_computed(visits: Visits, rows: int, strip: int) -> Int[Array, ""]:
    """Rows that a kernel computes: whole tiles where an expert fills them, else the strips that it has rows in."""
    made = jnp.arange(visits.tile.size) < visits.number
    strips = (visits.stop + strip - 1) // strip - visits.start // strip
    partly = jnp.where(visits.stop > visits.start, strips * strip, 0)
    return jnp.sum(jnp.where(made, jnp.minimum(partly, rows), 0))
