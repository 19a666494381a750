"""Log-sum-exp of scores over the whole catalogue, and its gradient, as kernels for TPUs.

No score leaves the chip. Scores are held transposed, items down and tokens across: what belongs to a token is a row of
lanes. One kernel walks over the items for each chunk of tokens and finds log-sum-exp and, when asked, the mean item
under the softmax, which is the gradient of log-sum-exp by the state: one pass for both. Another walks over the tokens
for each block of items, computes the scores again, and sums the items' gradient: four products altogether, or five when
the gradient is made in a later pass.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels import tpu
from mdrec_kernels.linear_xent.blocks import MASKED, Blocks
from mdrec_kernels.linear_xent.losses import slope
from mdrec_kernels.linear_xent.products import product, sums_in
from mdrec_kernels.linear_xent.tokens import Tokens
from mdrec_kernels.linear_xent.tpu_masks import Masks, allowed_tile, make_masks

DOWN, ACROSS = 0, 1

type Grid = tuple[Int[Array, ""] | int, Int[Array, ""] | int]


def choose_tile(tokens: int, width: int) -> Blocks:
    """Tokens and items of a tile: large enough that reading items costs less than multiplying by them."""
    lanes = max(tpu.LANES, min(1024, 512 * 1024 // max(width, 1) // tpu.LANES * tpu.LANES))
    return Blocks(min(lanes, tpu.round_up(tokens, tpu.LANES)), 512)


def scores_for(x: Float[Array, "N D"], w: Float[Array, "V D"], blocks: Blocks | None) -> "PallasScores":
    """The kernels' `Scores` for these arrays.

    Raises:
        NotImplementedError: no TPU, float64 on a TPU, tiles that are no whole registers on a TPU, rows too wide for
            the chip's memory, or values that `jax.shard_map` keeps track of (`check_vma=True`).
    """
    interpret = tpu.interpret()
    tile = choose_tile(*x.shape) if blocks is None else blocks
    if not interpret and (tile.tokens % tpu.LANES or tile.items % tpu.LANES):
        raise NotImplementedError(f"linear_xent: tiles are multiples of {tpu.LANES} on a TPU, found {tile}")
    if not interpret and jnp.float64 in (x.dtype, w.dtype):
        raise NotImplementedError("linear_xent: a TPU has no float64")
    if tpu.varying(x, w):
        raise NotImplementedError("linear_xent: a kernel inside jax.shard_map needs check_vma=False")
    _check_room(tile, x, w)
    return PallasScores(tile, interpret)


def _check_room(tile: Blocks, x: Float[Array, "N D"], w: Float[Array, "V D"]) -> None:
    """The larger kernel's buffers fit: to be asked before the first kernel runs, when there is still a choice."""
    width, sums = x.shape[1], sums_in(x)
    states, items = (tile.tokens, width), (tile.items, width)
    blocks = [(states, x.dtype), (states, sums), (items, w.dtype), (items, sums)]
    live = [((width, tile.tokens), sums), (items, sums)] + [((tile.items, tile.tokens), sums)] * 3
    tpu.compiler_params("linear_xent", ("parallel", "arbitrary"), blocks=blocks, scratch=live)


@dataclass(frozen=True)
class PallasScores:
    """`Scores` by kernels for TPUs."""

    tile: Blocks
    interpret: bool

    @property
    def chunk(self) -> int:
        return self.tile.tokens

    def normalisers(self, tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None) -> Array:
        return _over_items(self, tokens, w, allowed, with_mean=False)[0]

    def gradient(
        self,
        tokens: Tokens,
        w: Float[Array, "V D"],
        allowed: Bool[Array, "G V"] | None,
        normaliser: Array,
        factor: Array,
    ) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
        own, mean = _over_items(self, tokens, w, allowed, with_mean=True)
        # With items on other devices too, this device's mean counts by its share.
        share = jnp.where(factor != 0, factor * jnp.exp(own - normaliser), 0)[:, None]
        dx = jnp.where(share != 0, share * mean, 0)
        return dx, _over_tokens(self, tokens, w, allowed, normaliser, factor)

    def both(
        self, tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, z_loss: float
    ) -> tuple[Float[Array, " M"], Float[Array, "M D"], Float[Array, "V D"]]:
        normaliser, mean = _over_items(self, tokens, w, allowed, with_mean=True)
        normaliser = jnp.where(tokens.weight != 0, normaliser, 0)
        factor = slope(tokens, normaliser, z_loss)
        dx = jnp.where(factor[:, None] != 0, factor[:, None] * mean, 0)
        return normaliser, dx, _over_tokens(self, tokens, w, allowed, normaliser, factor)


def _tile_scores(
    x: Float[Array, "n D"], w: Float[Array, "v D"], masks: Masks, item: Array, items: int
) -> tuple[Float[Array, "v n"], Float[Array, "v D"]]:
    """Scores of a tile, `MASKED` where an item may not be chosen, and its items, zeros past the catalogue's end.

    Args:
        item: id of the tile's first item.
        items: in the catalogue. What is read past its end may be anything.
    """
    inside = item + lax.broadcasted_iota(jnp.int32, (w.shape[0], 1), DOWN) < items
    w = jnp.where(inside, w, 0).astype(x.dtype)
    scores = jnp.where(inside, product(w, x, (1, 1)), MASKED)
    allowed = allowed_tile(masks, x.shape[0])
    return scores if allowed is None else jnp.where(allowed, scores, MASKED), w


def _over_items(
    by: PallasScores, tokens: Tokens, w: Float[Array, "V D"], allowed: Bool[Array, "G V"] | None, *, with_mean: bool
) -> list[Array]:
    """Log-sum-exp of each token's scores [M], and with it the mean of the items under its softmax [M, D].

    Both are anything in chunks that hold no token with a weight.
    """
    (number, width), (items, _), sums = tokens.x.shape, w.shape, sums_in(tokens.x)
    lanes, rows = by.tile.tokens, by.tile.items
    masks = make_masks(allowed, tokens.group, number, by.tile)
    state = [((1, lanes), sums), ((1, lanes), sums)] + ([((width, lanes), sums)] if with_mean else [])
    outputs = [jax.ShapeDtypeStruct((number // lanes, 1, lanes), sums)]
    out_specs = [pl.BlockSpec((1, 1, lanes), lambda i, _: (i, 0, 0))]
    if with_mean:
        outputs.append(jax.ShapeDtypeStruct((number, width), sums))
        out_specs.append(pl.BlockSpec((lanes, width), lambda i, _: (i, 0)))

    def kernel(x: Any, w: Any, *references: Any) -> None:
        masks_of, (log_sum, *mean), state = _split(references, masks, len(outputs))

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            state[0][...] = jnp.full(state[0].shape, 2 * MASKED, sums)
            for sum_of in state[1:]:
                sum_of[...] = jnp.zeros(sum_of.shape, sums)

        scores, block = _tile_scores(x[...], w[...], masks_of, pl.program_id(1) * rows, items)
        new = jnp.maximum(state[0][...], scores.max(DOWN, keepdims=True))
        weight, shrunk = jnp.exp(scores - new), jnp.exp(state[0][...] - new)
        state[0][...] = new
        state[1][...] = state[1][...] * shrunk + weight.sum(DOWN, keepdims=True)
        if with_mean:
            state[2][...] = state[2][...] * shrunk + product(block, weight.astype(block.dtype), (DOWN, DOWN))

        @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
        def _() -> None:
            log_sum[0] = state[0][...] + jnp.log(state[1][...])
            for out in mean:
                out[...] = (state[2][...] * (1 / state[1][...])).T

    inputs = [
        (tokens.x, (lanes, width), lambda i, _: (i, 0)),
        (w, (rows, width), lambda _, j: (j, 0)),
        *masks.blocks(lambda _, j: (0, j), lambda i, _: (0, i)),
    ]
    grid = (jnp.maximum(tokens.chunks(lanes), 1), -(-items // rows))
    found = _run(by, "linear_xent_over_items", kernel, grid, inputs, outputs, out_specs, state, sums)
    return [found[0].reshape(-1), *found[1:]]


def _over_tokens(
    by: PallasScores,
    tokens: Tokens,
    w: Float[Array, "V D"],
    allowed: Bool[Array, "G V"] | None,
    normaliser: Float[Array, " M"],
    factor: Float[Array, " M"],
) -> Float[Array, "V D"]:
    """The gradient by w of sum_n factor_n log-sum-exp_n."""
    (number, width), (items, _), sums = tokens.x.shape, w.shape, sums_in(tokens.x)
    lanes, rows = by.tile.tokens, by.tile.items
    masks = make_masks(allowed, tokens.group, number, by.tile)
    lowered = jnp.where(factor != 0, normaliser, -MASKED).reshape(-1, 1, lanes)
    factors = factor.reshape(-1, 1, lanes)

    def kernel(x: Any, w: Any, lowered: Any, factors: Any, *references: Any) -> None:
        masks_of, (dw,), (summed,) = _split(references, masks, 1)

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            summed[...] = jnp.zeros(summed.shape, sums)

        scores = _tile_scores(x[...], w[...], masks_of, pl.program_id(0) * rows, items)[0]
        weight = jnp.exp(scores - lowered[0]) * factors[0]
        summed[...] += product(weight.astype(x.dtype), x[...], (1, 0))

        @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
        def _() -> None:
            dw[...] = summed[...]

    line = (1, 1, lanes), lambda _, i: (i, 0, 0)
    inputs = [
        (tokens.x, (lanes, width), lambda _, i: (i, 0)),
        (w, (rows, width), lambda j, _: (j, 0)),
        (lowered, *line),
        (factors, *line),
        *masks.blocks(lambda j, _: (0, j), lambda _, i: (0, i)),
    ]
    grid = (-(-items // rows), jnp.maximum(tokens.chunks(lanes), 1))
    output = jax.ShapeDtypeStruct(w.shape, sums)
    out_spec = pl.BlockSpec((rows, width), lambda j, _: (j, 0))
    state = [((rows, width), sums)]
    return _run(by, "linear_xent_over_tokens", kernel, grid, inputs, [output], [out_spec], state, sums)[0]


def _split(references: tuple, masks: Masks, outputs: int) -> tuple[Masks, tuple, tuple]:
    """References to masks, outputs and scratch."""
    own = iter(references[: masks.number])
    seen = Masks(*(None if value is None else next(own) for value in (masks.allowed, masks.groups)))
    rest = references[masks.number :]
    return seen, rest[:outputs], rest[outputs:]


def _run(
    by: PallasScores,
    name: str,
    kernel: Any,
    grid: Grid,
    inputs: list[tuple],
    outputs: list[jax.ShapeDtypeStruct],
    out_specs: list[pl.BlockSpec],
    scratch: list[tuple],
    sums: Any,
) -> list[Array]:
    """Run a kernel whose second axis of the grid adds up what the first keeps apart."""
    blocks = [(block, value.dtype) for value, block, _ in inputs]
    blocks += [(spec.block_shape, out.dtype) for spec, out in zip(out_specs, outputs, strict=True)]
    live = [((by.tile.items, by.tile.tokens), sums)] * 3
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=0,
            grid=grid,
            in_specs=[pl.BlockSpec(block, index) for _, block, index in inputs],
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in scratch],
        ),
        out_shape=outputs,
        interpret=by.interpret,
        name=name,
        compiler_params=tpu.compiler_params(name, ("parallel", "arbitrary"), blocks=blocks, scratch=[*scratch, *live]),
    )(*(value for value, _, _ in inputs))
