"""A code whose mean and covariance are the same in every domain.

A code y of domain d becomes z = (y - mean_d) C_d^(-1/2), and z in the terms of domain g is z C_g^(1/2) + mean_g: y
itself where g = d. So z says no more of d than what lies beyond the second moments (no linear reader finds d in it),
and what it takes to score a domain's items is kept beside the domain, like a head. These are the whitening and the
re-colouring of correlation alignment (Sun et al. 2016, arXiv 1511.05547), with statistics of a domain's own (Chang et
al. 2019, arXiv 1906.03950).

The statistics are constants. They are worked out before each validation (`recalibrate`), of the
states where the users' training histories end, and kept in the checkpoint: the same ones rank validation and test, are
probed, and serve. So a user's scores hang on no other user who is asked about, and nothing of validation or test is in
them. Until the first validation z is y. They are not of training positions, from which the next item was learned: such
states differ from those that are asked for later, and with their statistics a reader finds more of the domain.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, Int32

from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.models.nnx_bridge import statistic

LEAST = 1e-4
"""The least variance of a direction, over the mean variance of all."""


class DomainWhitening(nnx.Module):
    """The maps of G domains, between codes of width D."""

    def __init__(self, dim: int, domains: int) -> None:
        whole = jnp.broadcast_to(jnp.eye(dim), (domains, dim, dim))
        self.mean = statistic(jnp.zeros((domains, dim)), "domain", "code")
        self.white = statistic(whole, "domain", "code", "code_out")
        self.colour = statistic(whole, "domain", "code", "code_out")

    def __call__(self, y: Float[Array, "R T D"], domain: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        """z of codes y of these domains."""
        mean = jax.lax.stop_gradient(self.mean.get_value())
        wide = at_least_float32(y) - mean.astype(at_least_float32(y).dtype)[domain]
        return _of_domain(wide, domain, self.white.get_value()).astype(y.dtype)

    def recoloured(self, z: Float[Array, "R T D"], domain: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        """z in the terms of these domains."""
        mean = jax.lax.stop_gradient(self.mean.get_value())
        wide = _of_domain(at_least_float32(z), domain, self.colour.get_value())
        return (wide + mean.astype(wide.dtype)[domain]).astype(z.dtype)


def _of_domain(
    x: Float[Array, "R T D"], domain: Int32[Array, "R T"], maps: Float[Array, "G D D"]
) -> Float[Array, "R T D"]:
    """x times its domain's map. Every map multiplies every row: there are few, and none is copied for a row."""
    maps = jax.lax.stop_gradient(maps).astype(x.dtype)
    every = jnp.einsum("rtd,gde->grte", x, maps, precision="highest")
    return jnp.take_along_axis(every, domain[None, :, :, None], axis=0)[0]


def fit_whitening(
    y: Float[np.ndarray, "N D"], domain: Int[np.ndarray, " N"], domains: int
) -> dict[str, Float32[np.ndarray, "G ..."]]:
    """The maps that make the codes of G domains alike.

    A domain's covariance is drawn to what all have within them by as many rows as the code has channels; one without a
    row has their mean, too.
    """
    mine = (domain[None, :] == np.arange(domains)[:, None]).astype(np.float64)
    count, dim = mine.sum(1, keepdims=True), y.shape[1]
    mean = np.where(count > 0, mine @ y / np.maximum(count, 1), y.mean(0, dtype=np.float64)[None])
    apart = y - mean[domain]
    scatter = np.stack([(apart * one[:, None]).T @ apart for one in mine])
    within = scatter.sum(0) / max(len(y), 1)
    values, vectors = np.linalg.eigh((scatter + dim * within[None]) / (count[..., None] + dim))
    values = np.maximum(values, LEAST * values.mean(-1, keepdims=True) + np.finfo(np.float32).tiny)

    def power(exponent: float) -> Float32[np.ndarray, "G D D"]:
        return np.einsum("gde,ge,gfe->gdf", vectors, values**exponent, vectors).astype(np.float32)

    return {"mean": mean.astype(np.float32), "white": power(-0.5), "colour": power(0.5)}
