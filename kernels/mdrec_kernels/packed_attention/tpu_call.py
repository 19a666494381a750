"""What the forward and the backward kernel have in common: inputs, their blocks, and the loop over tiles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array
from mdrec_kernels import tpu
from mdrec_kernels.packed_attention import tpu_layout
from mdrec_kernels.packed_attention.spec import Places, Spec, Weights
from mdrec_kernels.packed_attention.tpu_tile import Inputs, Place


@dataclass(frozen=True)
class Operand:
    """An array, or the shape and type of an output, and its block of the grid (group of heads, group of rows)."""

    value: Any
    block: tuple[int, ...]
    index: Callable[..., tuple]

    @property
    def spec(self) -> pl.BlockSpec:
        return pl.BlockSpec(self.block, self.index)


@dataclass(frozen=True)
class Kernel:
    """A kernel beside its body.

    Args:
        more: operands beside those of `Inputs`.
        scratch: shape and type of each buffer.
        live: tiles of scores that exist at once.
        adds_rows: an output adds up what successive rows make.
    """

    name: str
    more: Mapping[str, Operand]
    outputs: Mapping[str, Operand]
    scratch: Sequence[tuple[tuple[int, ...], Any]]
    live: int
    adds_rows: bool = False


class Call:
    """The inputs of a call as the kernels read them."""

    def __init__(self, spec: Spec, sizes: tpu_layout.Layout, interpret: bool, weights: Weights, places: Places):
        self.spec, self.sizes, self.interpret, self.weights = spec, sizes, interpret, weights
        self.sums = jnp.promote_types(weights.q.dtype, jnp.float32)
        padded = jax.tree.map(lambda x: tpu.pad(x, 1, sizes.tile), Places(*self._columns(places), None))
        low, high, first, last = tpu_layout.tile_bounds(padded.segment, spec, sizes.tile)
        self.scalars = [first.reshape(-1), last.reshape(-1)]
        if places.seeds is not None:
            self.scalars.append(lax.bitcast_convert_type(places.seeds, jnp.int32).reshape(-1))
        self.lines = tpu_layout.lines(padded, low, high, sizes)
        self.buckets = 0 if weights.time_bias is None else weights.time_bias.shape[1]

    @staticmethod
    def _columns(places: Places) -> tuple[Array, Array | None, Array | None]:
        return places.segment, places.query_time, places.key_time

    def rows(self, x: Any) -> Operand:
        """An operand [R, T, H, K], or one that is folded, or is to be."""
        sizes = self.sizes
        value = tpu_layout.fold(x, sizes) if x.ndim == 4 else x
        return Operand(value, (sizes.step_rows, sizes.length, sizes.lanes), lambda g, r, *_: (r, 0, g))

    def empty_rows(self) -> Operand:
        """An output [R, T, H K] of q's type."""
        shape = (self.sizes.rows, self.sizes.length, self.sizes.heads * self.sizes.width)
        return self.rows(jax.ShapeDtypeStruct(shape, self.weights.q.dtype))

    def log_sum(self, value: Array | None = None) -> Operand:
        """Log sum exp [R, groups, blocks, heads, tile]."""
        sizes = self.sizes
        shape = (sizes.rows, sizes.groups, sizes.blocks, sizes.together, sizes.tile)
        value_or_shape = jax.ShapeDtypeStruct(shape, self.sums) if value is None else value
        block = (sizes.step_rows, 1, *shape[2:])
        return Operand(value_or_shape, block, lambda g, r, *_: (r, g, 0, 0, 0))

    def table(self, value: Array) -> Operand:
        """A table [1 or H, ...] of which a step sees its heads."""
        shared, rest = value.shape[0] == 1, (0,) * (value.ndim - 1)
        heads = 1 if shared else self.sizes.together
        return Operand(value, (heads, *value.shape[1:]), lambda g, r, *_: (0 if shared else g, *rest))

    def inputs(self) -> dict[str, Operand]:
        """Operands of the fields of `Inputs`, without the scalars."""
        sizes, weights = self.sizes, self.weights
        block = (sizes.step_rows, *self.lines.shape[1:])
        found = {"lines": Operand(self.lines, block, lambda g, r, *_: (r, 0, 0, 0))}
        if weights.position_bias is not None:
            found["diagonals"] = self.table(tpu_layout.diagonals(weights.position_bias, sizes))
        if weights.time_bias is not None:
            found["table"] = self.table(tpu.pad(weights.time_bias, 1, tpu_layout.LARGEST_TABLE)[:, None, :])
        return found | {"q": self.rows(weights.q), "k": self.rows(weights.k), "v": self.rows(weights.v)}

    def run(self, kernel: Kernel, body: Callable[..., None]) -> dict[str, Array]:
        """Run `body(inputs, references by name, scratch)` over groups of heads and rows."""
        operands, outputs, sizes = {**self.inputs(), **kernel.more}, kernel.outputs, self.sizes
        names, fields = [*operands, *outputs], ["first", "last", "seeds"][: len(self.scalars)]

        def run_body(*references: Any) -> None:
            known = dict(zip([*fields, *names], references, strict=False))
            used = {field: known.get(field) for field in Inputs.__dataclass_fields__}
            body(Inputs(**used), known, references[len(fields) + len(names) :])

        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(self.scalars),
            grid=(sizes.groups, sizes.rows // sizes.step_rows),
            in_specs=[operand.spec for operand in operands.values()],
            out_specs=[operand.spec for operand in outputs.values()],
            scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in kernel.scratch],
        )
        found = pl.pallas_call(
            run_body,
            grid_spec=grid,
            out_shape=[operand.value for operand in outputs.values()],
            interpret=self.interpret,
            name=kernel.name,
            compiler_params=self.parameters(kernel),
        )(*self.scalars, *(operand.value for operand in operands.values()))
        return dict(zip(outputs, found, strict=True))

    def parameters(self, kernel: Kernel) -> pltpu.CompilerParams:
        """The compiler's parameters.

        Raises:
            NotImplementedError: a row does not fit on chip.
        """
        operands = (*self.inputs().values(), *kernel.more.values(), *kernel.outputs.values())
        tiles = ((kernel.live * self.sizes.tile, self.sizes.tile), self.sums)
        return tpu.compiler_params(
            kernel.name,
            ("parallel", "arbitrary" if kernel.adds_rows else "parallel"),
            blocks=[(operand.block, operand.value.dtype) for operand in operands],
            scratch=[*kernel.scratch, tiles],
        )

    def for_each_block(self, body: Callable[[Place], None]) -> None:
        """`body(place)` for every block of queries of a step's rows; the place's key is to be filled in."""
        sizes = self.sizes
        group, first_row = pl.program_id(0), pl.program_id(1) * sizes.step_rows

        def block(n: Array, _: None) -> None:
            row, query = lax.div(n, jnp.int32(sizes.blocks)), lax.rem(n, jnp.int32(sizes.blocks))
            body(Place(row, first_row + row, query, query, group * sizes.together))

        lax.fori_loop(jnp.int32(0), jnp.int32(sizes.step_rows * sizes.blocks), block, None)

    def for_each_tile(self, inputs: Inputs, at: Place, body: Callable[[Place, Any], Any], state: Any) -> Any:
        """Fold `body(place, state)` over the blocks of keys that the queries of `at` meet."""
        n = at.batch_row * self.sizes.blocks + at.query

        def tile(key: Array, state: Any) -> Any:
            return body(Place(at.row, at.batch_row, at.query, key, at.head), state)

        return lax.fori_loop(inputs.first[n], inputs.last[n] + 1, tile, state)

    def part(self, reference: Any, at: Place, block: Array, head: int) -> Array:
        """One head of a block of a row."""
        return reference[self.slice(at, block, head)]

    def slice(self, at: Place, block: Array, head: int) -> tuple:
        sizes = self.sizes
        columns = pl.ds(pl.multiple_of(block * sizes.tile, sizes.tile), sizes.tile)
        return at.row, columns, pl.ds(head * sizes.width, sizes.width)
