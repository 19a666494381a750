"""What `linear_xent` is compared with: the formulas, with all scores at once."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.bench import Case
from mdrec_kernels.linear_xent import (
    Blocks,
    linear_xent,
    linear_xent_sum,
    sampled_bce_sum,
    sampled_xent_sum,
    target_rank,
    top_k,
)
from mdrec_kernels.linear_xent.shapes import Shape
from mdrec_kernels.roofline import Work

LARGEST_NAIVE = 2**30
"""Bytes of scores up to which a formula is run."""


def cases(shape: Shape, sweep: bool = False) -> list[Case]:
    """Loss and gradient over the whole catalogue, over shared negatives, and ranking.

    Args:
        sweep: also cut the scores into blocks of other sizes.
    """
    sampled = _sampled(shape) if shape.negatives else []
    return [*_catalogue(shape, sweep), *sampled, *_ranking(shape)]


def _catalogue(shape: Shape, sweep: bool) -> list[Case]:
    """Loss and gradient over the whole catalogue, masked as in training."""

    @cache
    def make() -> tuple:
        rng = np.random.default_rng(0)
        group = jnp.asarray(rng.integers(0, shape.groups, shape.N), jnp.int32)
        # Row r belongs to group r mod G; targets follow.
        rows = np.arange(shape.V)
        allowed = (
            (rows[None, :] % shape.groups == np.arange(shape.groups)[:, None]) & (rows >= 2) & (rows < shape.items)
        )
        target = rng.integers(2, shape.items // shape.groups - 1, shape.N) * shape.groups + np.asarray(group)
        return (
            jnp.asarray(rng.standard_normal((shape.N, shape.D)), jnp.float32),
            jnp.asarray(0.3 * rng.standard_normal((shape.V, shape.D)), jnp.float32),
            jnp.asarray(target, jnp.int32),
            jnp.full(shape.N, 1 / shape.N),
            jnp.asarray(allowed),
            group,
        )

    moved = 8.0 * shape.D * (shape.N + shape.V)
    products = 2.0 * shape.N * shape.V * shape.D
    case = partial(Case, make=make, count=shape.N, naive="naive")
    found = []
    if 4 * shape.N * shape.V <= LARGEST_NAIVE:
        naive = partial(_summed, implementation="reference")
        found.append(Case("naive", naive, make, Work(3 * products, moved), shape.N))
    found.append(case("linear_xent_sum", _summed, work=Work(3 * products, moved)))
    found.append(case("linear_xent (recomputes)", _per_token, work=Work(4 * products, moved)))
    cuts = [Blocks(tokens, shape.V) for tokens in (128, 256, 384, 512, 1024)] + [Blocks(512, 8192), Blocks(1024, 4096)]
    for blocks in cuts if sweep else []:
        name = f"  {blocks.tokens} x {'V' if blocks.items == shape.V else blocks.items}"
        found.append(case(name, partial(_summed, blocks=blocks), work=Work(3 * products, moved)))
    return found


def _summed(x, w, target, weight, allowed, group, **options):
    def loss(x, w):
        return linear_xent_sum(x, w, target, weight, allowed=allowed, group=group, **options)

    return jax.value_and_grad(loss, argnums=(0, 1))(x, w)


def _per_token(x, w, target, weight, allowed, group):
    def loss(x, w):
        return jnp.sum(weight * linear_xent(x, w, target, allowed=allowed, group=group))

    return jax.value_and_grad(loss, argnums=(0, 1))(x, w)


def _sampled(shape: Shape) -> list[Case]:
    """Loss and gradient over shared negatives."""

    @cache
    def make() -> tuple:
        rng = np.random.default_rng(0)
        tokens, drawn = (shape.N, shape.D), (shape.negatives, shape.D)
        ids = jnp.asarray(rng.integers(2, shape.items, shape.N + shape.negatives), jnp.int32)
        return (
            *(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (tokens, tokens, drawn)),
            jnp.full(shape.N, 1 / shape.N),
            jnp.full(shape.negatives, -10.0),
            ids[: shape.N],
            ids[shape.N :],
        )

    def softmax(x, positive, negatives, weight, logq, positive_id, negative_id, **options):
        options |= {"negative_logq": logq, "positive_id": positive_id, "negative_id": negative_id}
        gradient = jax.value_and_grad(partial(sampled_xent_sum, weight=weight, **options), argnums=(0, 1, 2))
        return gradient(x, positive, negatives)

    def gbce(x, positive, negatives, weight, _, positive_id, negative_id):
        options = {"beta": 0.3, "positive_id": positive_id, "negative_id": negative_id}
        gradient = jax.value_and_grad(partial(sampled_bce_sum, weight=weight, **options), argnums=(0, 1, 2))
        return gradient(x, positive, negatives)

    work = Work(6.0 * shape.N * shape.negatives * shape.D, 8.0 * shape.D * (2 * shape.N + shape.negatives))
    naive = Case("sampled, naive", partial(softmax, implementation="reference"), make, work, shape.N)
    return [
        naive,
        Case("sampled_xent_sum", softmax, make, work, shape.N, naive.name),
        Case("sampled_bce_sum", gbce, make, work, shape.N, naive.name),
    ]


def _ranking(shape: Shape) -> list[Case]:
    """Top 10 and rank of an evaluation batch, each query leaving out its history."""

    @cache
    def make() -> tuple:
        rng = np.random.default_rng(0)
        return (
            jnp.asarray(rng.standard_normal((shape.queries, shape.D)), jnp.float32),
            jnp.asarray(rng.standard_normal((shape.V, shape.D)), jnp.float32),
            jnp.asarray(rng.integers(2, shape.items, (shape.queries, shape.history)), jnp.int32),
            jnp.asarray((np.arange(shape.V) >= 2) & (np.arange(shape.V) < shape.items))[None, :],
        )

    def best(x, w, seen, allowed, **options):
        return top_k(x, w, 10, allowed=allowed, exclude=seen, **options)

    def rank(x, w, seen, allowed, **options):
        return target_rank(x, w, seen[:, 0], allowed=allowed, exclude=seen, **options)

    work = Work(2.0 * shape.queries * shape.V * shape.D, 4.0 * shape.D * (shape.queries + shape.V))
    forms: dict[str, Callable] = {"top_k": best, "target_rank": rank}
    found = []
    for name, f in forms.items():
        naive = f"{name}, naive"
        if 4 * shape.queries * shape.V <= LARGEST_NAIVE:
            found.append(Case(naive, partial(f, implementation="reference"), make, work, shape.queries))
        found.append(Case(name, f, make, work, shape.queries, naive))
    return found
