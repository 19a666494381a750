"""Exact top-k as a kernel for TPUs: a walk over the catalogue that keeps each query's best so far on chip.

Of each tile the best item of every query is taken out, one after the other, until no query has one that beats the worst
of its best. After a few tiles that is soon: of V items in any order only about k log(V / k) are ever among the best.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.linear_xent.blocks import MASKED, Blocks, pad_rows
from mdrec_kernels.linear_xent.pallas_tpu import scores_for
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.linear_xent.tpu_masks import Masks, allowed_tile, make_masks

DOWN = 0
MOST = 256
"""Items that a query may ask for: the search of the worst of the best looks at all of them for every item taken."""
QUERIES, ITEMS = 256, 1024


def top_k(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    k: int,
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " Q"] | None,
    exclude: Int[Array, "Q E"] | None,
    blocks: Blocks | None,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k best in descending order; of equal scores the lower id first. A score that is not a number is left out.

    Raises:
        NotImplementedError: as from `scores_for`, or k is larger than `MOST`.
    """
    if k > MOST:
        raise NotImplementedError(f"top_k: the kernel keeps at most {MOST} items a query, found {k}")
    tile = Blocks(min(QUERIES, tpu.round_up(x.shape[0], tpu.LANES)), ITEMS) if blocks is None else blocks
    by = scores_for(x, w, tile)
    queries = tpu.round_up(x.shape[0], tile.tokens)
    states = pad_rows(x, queries)
    group = None if group is None else pad_rows(group, queries)
    left_out = None if exclude is None else tpu.pad(pad_rows(exclude.astype(jnp.int32), queries).T, 0, 8)
    scores, ids = _search(states, w, k, make_masks(allowed, group, queries, tile), left_out, tile, by.interpret)
    order = lax.sort((-scores.T, ids.T), num_keys=2)
    best, ids = -order[0][: x.shape[0], :k], order[1][: x.shape[0], :k]
    found = best > MASKED / 2
    return jnp.where(found, best, -jnp.inf), jnp.where(found, ids, 0)


def _search(
    x: Float[Array, "M D"],
    w: Float[Array, "V D"],
    k: int,
    masks: Masks,
    exclude: Int[Array, "E M"] | None,
    tile: Blocks,
    interpret: bool,
) -> tuple[Float[Array, "k M"], Int[Array, "k M"]]:
    """The best scores and ids of each query, in any order; scores of 2 MASKED and ids below 0 where there are none."""
    (number, width), items, sums = x.shape, w.shape[0], sums_in(x)

    def kernel(x: Any, w: Any, *references: Any) -> None:
        own = iter(references)
        seen = Masks(*(None if value is None else next(own) for value in (masks.allowed, masks.groups)))
        left_out = None if exclude is None else next(own)
        best, ids, scores = own

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            best[...] = jnp.full(best.shape, 2 * MASKED, sums)
            ids[...] = -1 - lax.broadcasted_iota(jnp.int32, ids.shape, DOWN)

        first = pl.program_id(1) * tile.items
        inside = first + lax.broadcasted_iota(jnp.int32, (tile.items, 1), DOWN) < items
        rows = jnp.where(inside, w[...], 0).astype(x.dtype)
        # Products of bfloat16 are exact as they are.
        fresh = product(rows, x[...], (1, 1), None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST)
        allowed = allowed_tile(seen, tile.tokens)
        fresh = fresh if allowed is None else jnp.where(allowed, fresh, MASKED)
        scores[...] = jnp.where(inside & ~jnp.isnan(fresh), fresh, MASKED)
        _take_best(best, ids, scores, left_out, first)

    inputs = [
        (x, (tile.tokens, width), lambda i, _: (i, 0)),
        (w, (tile.items, width), lambda _, j: (j, 0)),
        *masks.blocks(lambda _, j: (0, j), lambda i, _: (0, i)),
    ]
    if exclude is not None:
        inputs.append((exclude, (exclude.shape[0], tile.tokens), lambda i, _: (0, i)))
    block, square = ((k, tile.tokens), (tile.items, tile.tokens))
    sizes = [(shape, value.dtype) for value, shape, _ in inputs] + [(block, sums), (block, jnp.int32)]
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=0,
            grid=(number // tile.tokens, -(-items // tile.items)),
            in_specs=[pl.BlockSpec(shape, index) for _, shape, index in inputs],
            out_specs=[pl.BlockSpec(block, lambda i, _: (0, i))] * 2,
            scratch_shapes=[pltpu.VMEM(square, sums)],
        ),
        out_shape=[jax.ShapeDtypeStruct((k, number), dtype) for dtype in (sums, jnp.int32)],
        interpret=interpret,
        name="top_k",
        compiler_params=tpu.compiler_params(
            "top_k", ("parallel", "arbitrary"), blocks=sizes, scratch=[(square, sums)] * 4
        ),
    )(*(value for value, _, _ in inputs))


def _take_best(best: Any, ids: Any, scores: Any, left_out: Any | None, first: Array) -> None:
    """Move a tile's items into the best as long as any query has one that belongs there.

    The items of equal score come in order of their ids, and an equal score displaces none.
    """
    item = lax.broadcasted_iota(jnp.int32, scores.shape, DOWN)

    def take(_: Array) -> Array:
        fresh, worst = scores[...], best[...].min(DOWN, keepdims=True)
        highest = fresh.max(DOWN, keepdims=True)
        better = highest > jnp.maximum(worst, MASKED / 2)
        place = jnp.where(fresh == highest, item, scores.shape[0]).min(DOWN, keepdims=True)
        enters = better
        if left_out is not None:
            enters &= jnp.logical_not((left_out[...] == place + first).any(DOWN, keepdims=True) & (place + first > 0))
        # Of several worst the one with the highest id goes; ids differ, so it is one.
        last = jnp.where(best[...] == worst, ids[...], -(2**31)).max(DOWN, keepdims=True)
        gives_way = enters & (ids[...] == last) & (best[...] == worst)
        best[...] = jnp.where(gives_way, highest, best[...])
        ids[...] = jnp.where(gives_way, place + first, ids[...])
        scores[...] = jnp.where((item == place) & better, 2 * MASKED, fresh)
        return better.any()

    lax.while_loop(lambda more: more, take, jnp.bool_(True))
