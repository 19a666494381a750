"""The formula of `packed_attention`, with every score of every row at once, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from mdrec_kernels.packed_attention import bias, dropout
from mdrec_kernels.packed_attention.spec import MASKED, Places, Spec, Weights


def visible(spec: Spec, places: Places) -> Bool[Array, "R T T"]:
    """Whether the query in column t may see the key in column s."""
    segment, column = places.segment, jnp.arange(places.segment.shape[1])
    distance = column[:, None] - column[None, :]
    mask = (segment[:, :, None] == segment[:, None, :]) & (segment[:, :, None] > 0)
    if spec.causal:
        mask &= (distance >= 0)[None]
    if spec.window is not None:
        mask &= (jnp.abs(distance) < spec.window)[None]
    return mask


def attend(spec: Spec, weights: Weights, places: Places) -> Float[Array, "R T H K"]:
    """softmax(scale q k + bias) v, or silu(scale q k + bias) v / N, over the visible keys; zeros where none is."""
    dtype = np.promote_types(weights.q.dtype, jnp.float32)
    q, k, v = (x.astype(dtype) for x in (weights.q, weights.k, weights.v))
    column = jnp.arange(q.shape[1])
    scores = spec.scale * jnp.einsum("rthk,rshk->rhts", q, k)
    if weights.position_bias is not None:
        scores += bias.position_tile(weights.position_bias, column[:, None] - column[None, :])[None]
    if weights.time_bias is not None and places.query_time is not None and places.key_time is not None:
        seconds = places.query_time[:, :, None] - places.key_time[:, None, :]
        scores += bias.time_tile(weights.time_bias, bias.time_bucket(seconds, weights.time_bias.shape[1]))
    mask = visible(spec, places)[:, None]
    if spec.mode == "softmax":
        weight = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1), 0)
    else:
        weight = jnp.where(mask, jax.nn.silu(scores), 0) / spec.normalizer
    if places.seeds is not None:
        keep = dropout.keep_mask(places.seeds, q.shape[2], column[None], column[None], spec.dropout_rate)
        weight = jnp.where(keep, weight / (1 - spec.dropout_rate), 0)
    return jnp.einsum("rhts,rshk->rthk", weight, v).astype(weights.q.dtype)
