"""How many bytes a Pallas kernel's blocks move, counted from its grid and its index maps.

The grid is walked in order, last axis fastest, as one TensorCore walks it. An input's block is fetched when its index
differs from that of the step before; an output's is written back when its index will differ in the next step. Blocks
count whole, also where they stick out of the array. What a kernel copies by itself, from references that stay in main
memory, is not counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Moved:
    """One operand of one kernel.

    Args:
        operand: its name in the kernel.
        fetches: how often a block is fetched, or written back.
        block_bytes: bytes of a block.
    """

    operand: str
    fetches: int
    block_bytes: int

    @property
    def bytes(self) -> int:
        return self.fetches * self.block_bytes


def fetches(grid: Sequence[int], index_map: Callable[..., Any], *scalars: Any) -> int:
    """How often the index changes between successive steps of the grid, the first step counted too.

    Args:
        grid: its axes' lengths.
        index_map: from the step's place in the grid, and the prefetched scalars, to the block's index.
        scalars: prefetched arrays.
    """
    if not grid or not all(grid):
        return 0 if grid else 1
    steps = [axis.reshape(-1) for axis in np.meshgrid(*(np.arange(n, dtype=np.int32) for n in grid), indexing="ij")]
    places = jax.vmap(lambda *step: index_map(*step, *scalars))(*map(jnp.asarray, steps))
    index = np.stack([np.asarray(place) for place in places], axis=1)
    return 1 + int((index[1:] != index[:-1]).any(axis=1).sum())


def moved(f: Callable, *arguments: Any, scalars: Sequence[Sequence[Any]] | None = None) -> list[Moved]:
    """What the blocks of every Pallas kernel in f move: one entry an operand, in the order of the kernels.

    Args:
        f: any function that calls kernels; it is traced with the arguments and not run.
        arguments: arrays or `jax.ShapeDtypeStruct`.
        scalars: for each kernel, the values of its prefetched scalars; may be left out where there are none.
    """
    kernels = list(_kernels(jax.make_jaxpr(f)(*arguments).jaxpr))
    values = [()] * len(kernels) if scalars is None else scalars
    if len(values) != len(kernels):
        raise ValueError(f"found {len(kernels)} kernels, and the scalars of {len(values)}")
    return [one for kernel, given in zip(kernels, values, strict=True) for one in _of_kernel(kernel, given)]


def _of_kernel(kernel: Any, scalars: Sequence[Any]) -> Iterator[Moved]:
    if len(scalars) != kernel.num_index_operands:
        raise ValueError(f"the kernel prefetches {kernel.num_index_operands} scalars, found {len(scalars)}")
    for block in kernel.block_mappings:
        held = block.transformed_block_aval
        if str(held.memory_space).lower() in ("any", "hbm"):
            continue
        size = int(np.prod(held.shape, dtype=np.int64)) * held.dtype.itemsize
        count = fetches(kernel.grid, lambda *at, b=block: b.compute_start_indices_interpret(at[:-1], *at[-1]), scalars)
        yield Moved(str(block.origin), count, size)


def _kernels(jaxpr: Any) -> Iterator[Any]:
    """The grids and index maps of all kernels in a program, also of those inside other functions."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation.params["grid_mapping"]
            continue
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _kernels(inner)
