"""Cutting the rows of sorted experts into blocks of equal size, and reading and writing blocks.

A block holds rows of one expert. It is named by its first row, and where an expert's rows do not fill its last block,
the block reaches into what follows: reading, those rows count as zeros; writing, they keep what stands there. So no row
is moved or padded, and none can be without a place, whatever the counts are.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import dispatch
from mdrec_kernels.grouped_ffn.runs import runs


@dataclass(frozen=True)
class Tiling:
    """How the rows of an expert are cut.

    Args:
        rows: rows of a block.
        rest: if given, blocks of `rows` take only what fills them and blocks of `rest` rows take what is left.
        together: blocks that one batched product takes at a time. With 1, the number of blocks that are computed
            follows the counts; with more, it is the largest that any counts can need, and `rest` has no meaning.
    """

    rows: int
    rest: int | None = None
    together: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.together < 1 or (self.rest is not None and not 1 <= self.rest <= self.rows):
            raise ValueError(f"blocks need at least one row, and a rest no larger than they are, found {self}")


CPU = Tiling(256, rest=32)
"""Large enough that the products run at full speed; the rest costs at most 31 rows an expert."""
WASTE = 0.05
"""Share of rows that the rounding up to blocks may add, on an accelerator ..."""
SMALLEST, LARGEST = 64, 512
"""... within these sizes of a block."""
TOGETHER_BYTES = 256 * 2**20
"""About what the weights gathered for one batched product may take."""


def choose_tiling(rows: int, experts: int, expert_bytes: int) -> Tiling:
    """The tiling for T rows, E experts of all classes and the bytes of the largest one's weights, on this platform."""
    if dispatch.platform() == "cpu":
        return CPU
    size = SMALLEST
    while 2 * size <= LARGEST and (2 * size - 1) * experts <= WASTE * rows:
        size *= 2
    return Tiling(size, together=max(1, TOGETHER_BYTES // max(expert_bytes, 1)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """Blocks, those of an expert side by side, in ascending order; after those that are used, empty ones."""

    expert: Int[Array, "n"]
    start: Int[Array, "n"]
    stop: Int[Array, "n"]
    """The row after the last of the block's own."""


def turns(length: int, experts: int, rows: int, together: int) -> tuple[int, int]:
    """How many turns to take, and how many blocks in each: as many as any counts can need, evenly."""
    most = length // rows + experts
    number = -(-most // together)
    return number, -(-most // number)


def cut(starts: Int[Array, "E"], ends: Int[Array, "E"], rows: int, most: int) -> Blocks:
    """Blocks that cover the experts' rows; never more than `most`."""
    expert, number, read = runs((ends - starts + rows - 1) // rows, most)
    start = read(starts) + number * rows
    stop = jnp.minimum(start + rows, read(ends))
    return Blocks(expert, start, jnp.maximum(start, stop))


@dataclass(frozen=True)
class Window:
    """Some blocks, for reading and writing arrays whose first axis is the rows."""

    start: Int[Array, "g"]
    stop: Int[Array, "g"]
    rows: int

    def _rows(self, length: int) -> tuple[Int[Array, "g rows"], Bool[Array, "g rows"]]:
        """Numbers of the rows read, and which of them are the blocks' own."""
        row = self._first(length)[:, None] + jnp.arange(self.rows, dtype=self.start.dtype)[None]
        return row, (row >= self.start[:, None]) & (row < self.stop[:, None])

    def _first(self, length: int) -> Int[Array, "g"]:
        """The first row read: a block whose end lies behind the array's is moved back."""
        return jnp.clip(self.start, 0, length - self.rows)

    def take(self, array: Float[Array, "T k"], width: int | None = None) -> Float[Array, "g rows w"]:
        """The blocks' rows, up to column `width`; zeros for rows that are not their own."""
        columns = array.shape[1] if width is None else width
        row, own = self._rows(array.shape[0])
        if row.shape[0] == 1:
            found = lax.dynamic_slice(array, (row[0, 0], jnp.zeros_like(row[0, 0])), (self.rows, columns))[None]
        else:
            found = array[:, :columns][row]
        return jnp.where(own[:, :, None], found, 0)

    def put(self, array: Float[Array, "T k"], new: Float[Array, "g rows w"]) -> Float[Array, "T k"]:
        """The array with `new` in the blocks' own rows, up to the column that `new` has."""
        row, own = self._rows(array.shape[0])
        new = new.astype(array.dtype)
        if row.shape[0] == 1:
            corner = (row[0, 0], jnp.zeros_like(row[0, 0]))
            old = lax.dynamic_slice(array, corner, new.shape[1:])
            return lax.dynamic_update_slice(array, jnp.where(own[0, :, None], new[0], old), corner)
        # Rows of others get numbers of their own past the end, where they are dropped: all are distinct.
        past = array.shape[0] + jnp.arange(row.size, dtype=row.dtype).reshape(row.shape)
        place = jnp.where(own, row, past)
        return array.at[place, : new.shape[2]].set(new, mode="drop", unique_indices=True)
