"""Means and covariances of many rows, gathered part by part."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float64

from mdrec_jax.models.layers import at_least_float32
from mdrec_jax.types import AnyArray


class Moments(NamedTuple):
    """Of N rows of E channels."""

    count: Float[AnyArray, "*G"]
    mean: Float[AnyArray, "*G E"]
    scatter: Float[AnyArray, "*G E E"]
    """Sum over the rows of products around the mean."""


def moments(x: Float[AnyArray, "N E"], real: Bool[AnyArray, " N"]) -> Moments:
    """Of the rows that count."""
    x = at_least_float32(jnp.asarray(x))
    weight, count = real.astype(x.dtype)[:, None], real.sum().astype(x.dtype)
    mean = (weight * x).sum(0) / jnp.maximum(count, 1.0)
    x = x - mean[None, :]
    return Moments(count, mean, jnp.matmul((weight * x).T, x, precision="highest"))


def together(parts: Sequence[Moments]) -> Moments:
    """Of all the rows of some parts, in float64: the scatter within them and between them."""
    count, mean, scatter = (np.stack(values).astype(np.float64) for values in zip(*parts, strict=True))
    total = np.maximum(count.sum(0), 1.0)
    middle = np.einsum("p...,p...e->...e", count, mean) / total[..., None]
    apart = mean - middle
    between = np.einsum("p...,p...e,p...f->...ef", count, apart, apart)
    return Moments(count.sum(0), middle, scatter.sum(0) + between)


def covariance(found: Moments) -> Float64[np.ndarray, "*G E E"]:
    return np.asarray(found.scatter / np.maximum(found.count, 1.0)[..., None, None])
