"""Which tile of rows meets which expert, in the order of a TPU kernel's grid.

Rows are cut into tiles at fixed places. A tile in which n experts have rows is visited n times, one after the other, so
it stays on the chip; an expert's visits stand side by side too, so its weights are fetched once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Int
from mdrec_kernels.grouped_ffn.runs import runs

STRIP = 64
"""Rows that are computed at once in a tile that experts share."""


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


@dataclass(frozen=True)
class VisitRefs:
    """What a kernel's body knows of its place: the refs are the fields of `Visits`."""

    expert: Array
    tile: Array
    start: Array
    stop: Array
    rows: int

    @property
    def new_tile(self) -> Bool[Array, ""]:
        return self._changed(self.tile)

    @property
    def new_expert(self) -> Bool[Array, ""]:
        return self._changed(self.expert)

    def _changed(self, of: Array) -> Bool[Array, ""]:
        i = pl.program_id(0)
        return (i == 0) | (of[i] != of[jnp.maximum(i - 1, 0)])

    def each_strip(self, work: Callable[[pl.Slice, Bool[Array, "rows 1"]], None]) -> None:
        """Call `work` with rows of the tile, and which of them are the expert's, until all of these are done."""
        i = pl.program_id(0)
        first = self.tile[i] * self.rows
        start, stop = self.start[i] - first, self.stop[i] - first

        def call(at: Int[Array, ""] | int, rows: int) -> None:
            row = at + lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
            work(pl.ds(at, rows), (row >= start) & (row < stop))

        @pl.when((start == 0) & (stop == self.rows))
        def _() -> None:
            call(0, self.rows)

        @pl.when((start > 0) | (stop < self.rows))
        def _() -> None:
            def strip(k: Array, carry: None) -> None:
                call(pl.multiple_of(k * STRIP, STRIP), STRIP)
                return carry

            # Division of numbers that are not negative: `//` would ask what chip this is.
            last = jnp.where(stop > start, lax.div(stop + (STRIP - 1), STRIP), 0)
            lax.fori_loop(lax.div(start, STRIP), last, strip, None)
