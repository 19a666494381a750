"""Lookup and row updates for TPUs: each row is one copy between the table and VMEM, and nothing else of it is touched.

A copy moves whole rows of 128 lanes of 32 bits: float32 tables whose width is a multiple of 128. (XLA stores a
narrower table transposed, and every update of its rows copies it twice; a row of bfloat16 shares its words with its
neighbour.) Slots of one number a row are read and written by XLA, which does it in place too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.embedding_rows.rules import Rows, Rule, join, split

CHUNK = 128
"""Rows that are on their way at once."""
BUFFERS = 3
"""Chunks in VMEM: one being read, one being moved, one being written."""
MOST_IDS = 2**17
"""Row numbers that a call takes: they wait in scalar memory, 1 MiB."""


def _check(table: Array, ids: Array) -> None:
    if table.dtype != jnp.float32 or table.shape[1] % tpu.LANES:
        raise NotImplementedError(
            f"a table of {table.dtype}[..., {table.shape[1]}]: the kernel copies rows of float32 whose width is a "
            f"multiple of {tpu.LANES}"
        )
    if ids.size > MOST_IDS:
        raise NotImplementedError(f"{ids.size} row numbers: the kernel takes {MOST_IDS}")


def _whole_chunks(x: Array, fill: int = 0) -> Array:
    """x [n] up to a multiple of CHUNK."""
    return jnp.pad(x, (0, -x.size % CHUNK), constant_values=fill)


def _each(number: Array, work: Callable[[Array], Any]) -> None:
    """work(0), ..., work(number - 1)."""

    def body(r: Array, carry: None) -> None:
        work(r)
        return carry

    lax.fori_loop(0, number, body, None)


def _in_chunk(used: Array, chunk: Array) -> Array:
    """How many of a chunk's row numbers are used."""
    return jnp.clip(used - chunk * CHUNK, 0, CHUNK)


def _gather_body(ids: Any, used: Any, table: Any, out: Any, arrived: Any) -> None:
    chunk = pl.program_id(0)
    number = _in_chunk(used[0], chunk)

    def copy(r: Array) -> Any:
        row = ids[chunk * CHUNK + r]
        return pltpu.make_async_copy(table.at[pl.ds(row, 1)], out.at[pl.ds(r, 1)], arrived)

    @pl.when(number < CHUNK)
    def _() -> None:
        out[...] = jnp.zeros_like(out)

    _each(number, lambda r: copy(r).start())
    _each(number, lambda r: copy(r).wait())


def gather(table: Float[Array, "V D"], unique_ids: Int[Array, "N"]) -> Float[Array, "N D"]:
    """Rows of the table; zeros for ids past its end, which come last.

    Raises:
        NotImplementedError: the platform is no TPU; the table's rows are not whole lanes; too many ids.
    """
    interpret = tpu.interpret()
    _check(table, unique_ids)
    width = table.shape[1]
    block = (CHUNK, width)
    return pl.pallas_call(
        _gather_body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(pl.cdiv(unique_ids.size, CHUNK),),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
            out_specs=pl.BlockSpec(block, lambda i, *_: (i, 0)),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
        ),
        out_shape=jax.ShapeDtypeStruct((unique_ids.size, width), table.dtype),
        compiler_params=tpu.compiler_params(
            "embedding_rows.lookup", ["arbitrary"], blocks=[(block, table.dtype)], scratch=[]
        ),
        interpret=interpret,
        name="embedding_rows_gather",
    )(_whole_chunks(unique_ids), jnp.sum(unique_ids < table.shape[0], dtype=jnp.int32)[None], table)


def _columns(numbers: Float[Array, "k n"]) -> tuple[Float[Array, "n 1"], ...]:
    """The rows of `numbers` as columns, each number picked out of its lane by a mask."""
    size = numbers.shape[1]
    row, lane = (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))
    return tuple(
        jnp.sum(jnp.where(row == lane, numbers[k : k + 1], 0.0), axis=1, keepdims=True) for k in range(numbers.shape[0])
    )


def _update_body(*refs: Any, move: Callable[..., Rows], arrays: int) -> None:
    """refs: row numbers, how many are used, lr; gradients, numbers; the arrays; the arrays again, in whose place they
    stand; a buffer for each; semaphores of reads and of writes.

    While a chunk is moved, the next one is read and the one before it is written. Row numbers are distinct, so the
    order in which chunks arrive does not matter.
    """
    ids, used, lr, grads, numbers = refs[:5]
    tables, buffers = refs[5 + arrays : 5 + 2 * arrays], refs[5 + 2 * arrays : 5 + 3 * arrays]
    read, written = refs[5 + 3 * arrays :]
    chunk, last = pl.program_id(0), pl.num_programs(0) - 1

    def copies(of: Array, r: Array, back: bool) -> list[Any]:
        place, row = lax.rem(of, BUFFERS), ids[of * CHUNK + r]
        ends = [(t.at[pl.ds(row, 1)], b.at[place, pl.ds(r, 1)]) for t, b in zip(tables, buffers, strict=True)]
        if back:
            return [pltpu.make_async_copy(b, t, written.at[place]) for t, b in ends]
        return [pltpu.make_async_copy(t, b, read.at[place]) for t, b in ends]

    def start(of: Array, *, back: bool) -> None:
        _each(_in_chunk(used[0], of), lambda r: [c.start() for c in copies(of, r, back)])

    def wait(of: Array, *, back: bool) -> None:
        _each(_in_chunk(used[0], of), lambda r: [c.wait() for c in copies(of, r, back)])

    @pl.when(chunk == 0)
    def _() -> None:
        start(chunk, back=False)

    @pl.when(chunk >= BUFFERS - 1)
    def _() -> None:
        wait(chunk - (BUFFERS - 1), back=True)

    @pl.when(chunk < last)
    def _() -> None:
        start(chunk + 1, back=False)

    wait(chunk, back=False)
    place = lax.rem(chunk, BUFFERS)
    touched, *others = _columns(numbers[0])
    new = move(tuple(b[place] for b in buffers), grads[...], (touched != 0, *others), lr[0])
    for buffer, rows in zip(buffers, new, strict=True):
        buffer[place] = rows
    start(chunk, back=True)

    @pl.when(chunk == last)
    def _() -> None:
        for before in reversed(range(BUFFERS - 1)):

            @pl.when(chunk >= before)
            def _(before: int = before) -> None:
                wait(chunk - before, back=True)


def _move_rows(
    rule: Rule,
    tables: Sequence[Float[Array, "V D"]],
    ids: Int[Array, "N"],
    grads: Float[Array, "N D"],
    numbers: Sequence[Array],
    lr: Array,
    interpret: bool,
) -> list[Array]:
    """The table and the slots as wide as it, with the rows `ids` moved."""
    width, arrays = grads.shape[1], len(tables)
    used = jnp.sum(ids < tables[0].shape[0], dtype=jnp.int32)
    chunked = jnp.stack([_whole_chunks(x.astype(jnp.float32)).reshape(-1, CHUNK) for x in numbers], axis=1)
    rows, columns = (CHUNK, width), (1, len(numbers), CHUNK)
    anywhere = [pl.BlockSpec(memory_space=pl.ANY)] * arrays
    buffer = (BUFFERS, CHUNK, width)
    call = pl.pallas_call(
        partial(_update_body, move=rule.move, arrays=arrays),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(jnp.maximum(pl.cdiv(used, CHUNK), 1),),
            in_specs=[
                pl.BlockSpec(rows, lambda i, *_: (i, 0)),
                pl.BlockSpec(columns, lambda i, *_: (i, 0, 0)),
                *anywhere,
            ],
            out_specs=anywhere,
            scratch_shapes=[pltpu.VMEM(buffer, jnp.float32)] * arrays + [pltpu.SemaphoreType.DMA((BUFFERS,))] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct(t.shape, t.dtype) for t in tables],
        input_output_aliases={5 + i: i for i in range(arrays)},
        compiler_params=tpu.compiler_params(
            "embedding_rows.update",
            ["arbitrary"],
            blocks=[(rows, grads.dtype), (columns, jnp.float32)],
            scratch=[(buffer, jnp.float32)] * arrays + [(rows, jnp.float32)] * (2 * arrays),
        ),
        interpret=interpret,
        name="embedding_rows_update",
    )
    return call(_whole_chunks(ids), used[None], lr[None], grads, chunked, *tables)


def update(
    rule: Rule, table: Float[Array, "V D"], slots: Any, unique_ids: Int[Array, "N"], row_grads: Array, lr: Array
) -> tuple[Float[Array, "V D"], Any]:
    """Apply `rule` to the rows `unique_ids` of the table and its slots, and to nothing else.

    Raises:
        NotImplementedError: see `gather`.
    """
    interpret = tpu.interpret()
    _check(table, unique_ids)
    wide, narrow = split(slots)
    # Unused slots get distinct ids past the end, so that the promise of distinct, ascending ids holds for them too.
    past = table.shape[0] + jnp.arange(unique_ids.size, dtype=unique_ids.dtype)
    ids = jnp.where(unique_ids < table.shape[0], unique_ids, past)
    own = None
    if narrow is not None:
        own = narrow.at[ids].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)
    own, numbers = rule.numbers(own, row_grads)
    table, *wide = _move_rows(rule, (table, *wide), ids, row_grads, numbers, lr, interpret)
    if narrow is not None:
        narrow = narrow.at[ids].set(own, mode="drop", unique_indices=True, indices_are_sorted=True)
    return table, join(slots, tuple(wide), narrow)
