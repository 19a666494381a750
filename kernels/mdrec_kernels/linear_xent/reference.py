"""The formulas as they stand: the whole matrix of scores, float32, and JAX's own gradients.

Products are taken in x's type and summed in float32 (float64 for float64 inputs); everything after is in that type.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from mdrec_kernels.linear_xent.sampled import Sampled


def linear_xent(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " N"] | None,
    z_loss: float,
) -> Float[Array, " N"]:
    scores = _masked(_scores(x, w), allowed, group)
    normaliser = jax.nn.logsumexp(scores, axis=1)
    own = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
    return normaliser - own + z_loss * normaliser**2


def linear_xent_sum(
    x: Float[Array, "N D"],
    w: Float[Array, "V D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " N"] | None,
    z_loss: float,
) -> Float[Array, ""]:
    real = weight != 0
    loss = linear_xent(x, w, jnp.where(real, target, 0), allowed, group, z_loss)
    return jnp.sum(jnp.where(real, loss, 0) * weight)


def sampled_sum(
    x: Float[Array, "N D"], positive: Float[Array, "N D"], negatives: Float[Array, "S D"], weight: Array, how: Sampled
) -> Float[Array, ""]:
    own = jnp.sum(x.astype(_sums(x)) * positive.astype(x.dtype).astype(_sums(x)), axis=1)
    return jnp.sum(jnp.where(weight != 0, how.losses(own, _scores(x, negatives)), 0) * weight)


def top_k(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    k: int,
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " Q"] | None,
    exclude: Int[Array, "Q E"] | None,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    scores = _without(_masked(_scores(x, w), allowed, group), exclude)
    best, ids = jax.lax.top_k(scores, k)
    return best, jnp.where(best > -jnp.inf, ids, 0)


def target_rank(
    x: Float[Array, "Q D"],
    w: Float[Array, "V D"],
    target: Int[Array, " Q"],
    allowed: Bool[Array, "G V"] | None,
    group: Int[Array, " Q"] | None,
    exclude: Int[Array, "Q E"] | None,
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, " Q"]]:
    scores = _scores(x, w)
    own = jnp.take_along_axis(scores, target[:, None], axis=1)
    others = _without(_masked(scores, allowed, group), exclude)
    others = jnp.where(jnp.arange(w.shape[0])[None, :] == target[:, None], -jnp.inf, others)
    rivals = others > -jnp.inf
    higher = jnp.sum(rivals & ~(others <= own), axis=1, dtype=jnp.int32)
    higher = jnp.where(jnp.isnan(own[:, 0]), w.shape[0], higher)
    return higher, jnp.sum(rivals & (others == own), axis=1, dtype=jnp.int32), own[:, 0]


def _sums(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _scores(x: Array, w: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST
    return jnp.dot(x, w.astype(x.dtype).T, preferred_element_type=_sums(x), precision=precision)


def _masked(scores: Array, allowed: Array | None, group: Array | None) -> Array:
    if allowed is None:
        return scores
    return jnp.where(allowed[:1] if group is None else allowed[group], scores, -jnp.inf)


def _without(scores: Array, exclude: Array | None) -> Array:
    if exclude is None:
        return scores
    column = jnp.where(exclude > 0, exclude, scores.shape[1])
    return scores.at[jnp.arange(scores.shape[0])[:, None], column].set(-jnp.inf, mode="drop")
