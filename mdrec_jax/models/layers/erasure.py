"""Erasing one code from another: no linear reading of what is left foretells the first code.

A code x is projected on the complement of the directions C in which it varies with a code z, so that what is left has
no covariance with z (spectral removal, Shao et al. 2023, arXiv 2203.07893; that this is what stops every linear reader:
Belrose et al. 2023, arXiv 2306.03819, theorem 3.1). C spans what the least-squares map from z to x spans. Step by step
that map is learned beside the model, and trails the codes; `closed_form` works it out at once from the moments of many
tokens (`recalibrate`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Float64

from mdrec_jax.models.layers.linear import Linear
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.types import AnyArray

TINY = 1e-12
RIDGE = 1e-4
"""Of z's covariance, over its mean variance: what whitening makes of a channel that hardly varies stays small."""
PACE = 30.0
"""The map is its kernel times this: an adaptive step moves it that much further, so that it keeps up with the codes."""


class Erasure(nnx.Module):
    """The map from z (width r) to x (width D), and the projection. Needs r < D."""

    def __init__(self, key: jax.Array, rank: int, dim: int) -> None:
        self.map = Linear(key, rank, dim, ("code", "embed"), bias=False, gain=0.1 / PACE)

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """What is left of x. The projection is a constant: x learns to live with it.

        It is exact whatever the directions' lengths are: a reader could amplify the least rest.
        """
        c = jnp.linalg.qr(jax.lax.stop_gradient(at_least_float32(self.map.kernel.get_value())).T)[0]
        wide = at_least_float32(x)
        along = jnp.matmul(wide, c, precision="highest")
        return (wide - jnp.matmul(along, c.T, precision="highest")).astype(x.dtype)

    def misfit(self, z: Float[Array, "N r"], x: Float[Array, "N D"], real: Bool[Array, " N"]) -> Float[Array, ""]:
        """Squared error of the map over the rows that count, in units of x's mean variance. Its gradient moves the map
        alone. z is whitened by these rows first: what C spans stays, and it is learned as fast in every direction."""
        share = (real / jnp.maximum(real.sum(), 1)).astype(jnp.float32)
        z, x = (v - (share @ v)[None, :] for v in jax.lax.stop_gradient((z, x)))
        spread = (z * share[:, None]).T @ z
        ridge = (RIDGE * jnp.trace(spread) / len(spread) + TINY) * jnp.eye(len(spread), dtype=spread.dtype)
        white = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(spread + ridge), z.T, lower=True).T
        unit = jnp.sqrt((share @ jnp.square(x)).mean() + TINY)
        return share @ jnp.square(x / unit - PACE * self.map(white)).sum(-1)


class Moments(NamedTuple):
    """Of N rows of (z, x) side by side: E = r + D channels."""

    count: Float[AnyArray, ""]
    mean: Float[AnyArray, " E"]
    scatter: Float[AnyArray, "E E"]
    """Sum over the rows of products around the mean."""


def moments(z: Float[Array, "N r"], x: Float[Array, "N D"], real: Bool[Array, " N"]) -> Moments:
    """Of the rows that count."""
    v = jnp.concatenate([at_least_float32(z), at_least_float32(x)], axis=1)
    weight, count = real.astype(v.dtype)[:, None], real.sum().astype(v.dtype)
    mean = (weight * v).sum(0) / jnp.maximum(count, 1.0)
    v = v - mean[None, :]
    return Moments(count, mean, jnp.matmul((weight * v).T, v, precision="highest"))


def covariance(parts: Sequence[Moments]) -> Float64[np.ndarray, "E E"]:
    """Of all the rows of some parts: the scatter within them and between them."""
    count, mean, scatter = (np.stack(values).astype(np.float64) for values in zip(*parts, strict=True))
    total = max(count.sum(), 1.0)
    apart = mean - count @ mean / total
    return (scatter.sum(0) + (count[:, None] * apart).T @ apart) / total


def closed_form(covariance: Float64[np.ndarray, "E E"], rank: int) -> Float32[np.ndarray, "r D"]:
    """The map's kernel where `misfit` is least (but for the ridge): L^-1 Cov(z, x) over x's unit and PACE, where
    L L' = Cov(z, z)."""
    spread, across, own = covariance[:rank, :rank], covariance[:rank, rank:], covariance[rank:, rank:]
    ridge = (RIDGE * np.trace(spread) / rank + TINY) * np.eye(rank)
    unit = np.sqrt(np.trace(own) / len(own) + TINY)
    return (np.linalg.solve(np.linalg.cholesky(spread + ridge), across) / unit / PACE).astype(np.float32)
