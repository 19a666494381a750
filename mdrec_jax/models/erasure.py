"""Erasing one code from another: no linear reading of what is left foretells the first code.

A code x is projected on the complement of the directions C in which it varies with a code z: x - C (C'C)^-1 C'x, C the
covariance of x and z, so that what is left has none with z (spectral removal, Shao et al. 2023, arXiv 2203.07893; that
this is what stops every linear reader: Belrose et al. 2023, arXiv 2306.03819). C spans what the least-squares map from
z to x spans, and that map is learned beside the model.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mdrec_jax.models.layers import Linear, at_least_float32
from mdrec_jax.objectives.disentanglement import TINY

RIDGE = 1e-4
"""Of C'C, over its mean diagonal: a direction that has not been learned yet is not erased."""
PACE = 30.0
"""The map is its kernel times this: an adaptive step moves it that much further, so that it keeps up with the codes."""


class Erasure(nnx.Module):
    """The map from z (width r) to x (width D), and the projection. Needs r < D."""

    def __init__(self, key: jax.Array, rank: int, dim: int) -> None:
        self.map = Linear(key, rank, dim, ("code", "embed"), bias=False, gain=0.1 / PACE)

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """What is left of x. The projection is a constant: x learns to live with it."""
        c = jax.lax.stop_gradient(at_least_float32(self.map.kernel.get_value())).T
        gram = c.T @ c
        scale = jnp.trace(gram) / gram.shape[0]
        inverse = jnp.linalg.inv(gram + RIDGE * scale * jnp.eye(gram.shape[0], dtype=gram.dtype))
        onto = (c @ inverse @ c.T).astype(x.dtype)
        return x - x @ onto

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
