"""Norms, and vectors of one length, with statistics in float32 or wider."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mdrec_jax.models.nnx_bridge import parameter

NORM_EPSILON = 1e-6


class Norm(nnx.Module):
    """Layer norm over the last axis, with a learned scale and bias unless told otherwise."""

    def __init__(self, dim: int, *, affine: bool = True) -> None:
        self.scale = parameter(jnp.ones((dim,)), "embed", group="vector") if affine else None
        self.bias = parameter(jnp.zeros((dim,)), "embed", group="vector") if affine else None

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        wide = at_least_float32(x)
        y = normalise(wide, centre=True)
        for variable, combine in ((self.scale, jnp.multiply), (self.bias, jnp.add)):
            if variable is not None:
                y = combine(y, jnp.expand_dims(variable.get_value().astype(wide.dtype), range(y.ndim - 1)))
        return y.astype(x.dtype)


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in float32, or in its own type where that is wider."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def normalise(x: Float[Array, "... D"], *, centre: bool) -> Float[Array, "... D"]:
    """x / rms(x) over the last axis, after its mean is taken off where `centre` says so."""
    if centre:
        x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + NORM_EPSILON)


def unit_rms(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x over its root mean square, worked out in float32 or wider, in x's type."""
    return normalise(at_least_float32(x), centre=False).astype(x.dtype)


def unit_length(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x over its Euclidean length, worked out in float32 or wider; a zero vector stays zero."""
    wide = at_least_float32(x)
    return (wide * jax.lax.rsqrt((wide * wide).sum(-1, keepdims=True) + 1e-8)).astype(x.dtype)
