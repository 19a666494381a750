"""Formulas that keep a shared and a specific code apart, and that make the shared codes of all domains alike.

Codes are float32 (or wider) [N, D], a row a token. `real` says which rows count; the others have no influence. A value
is a mean over rows, or a statistic of all of them, and is 0 where there is nothing to compare.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

Kernel = Literal["linear", "gaussian"]

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Squared widths of the mixture of Gaussian kernels, over the mean squared distance (Long et al. 2015, section 4.2)."""
TINY = 1e-12


@jax.custom_vjp
def gradient_reversal(x: Float[Array, "*N D"], strength: Float[Array, "*N"]) -> Float[Array, "*N D"]:
    """x, whose gradient is turned round and multiplied by each row's `strength` (Ganin and Lempitsky 2015,
    arXiv 1409.7495, eq. 4 to 6)."""
    del strength
    return x


def _forward(x: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, strength


def _backward(strength: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return -strength[..., None].astype(gradient.dtype) * gradient, jnp.zeros_like(strength)


gradient_reversal.defvjp(_forward, _backward)


def info_nce(
    first: Float[Array, "N D"],
    second: Float[Array, "N D"],
    user: Int32[Array, " N"],
    real: Bool[Array, " N"],
    temperature: float,
) -> Float[Array, ""]:
    """-log of the share of each row's own pair among the pairs of other users, by cosine, the mean of both directions
    (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    Args:
        first, second: row i of each is the same user's, seen from two domains. No other row of that user is a negative.
    """
    logits = _unit(first) @ _unit(second).T / temperature
    others = (user[:, None] != user[None, :]) & real[None, :] & real[:, None]
    kept = others | jnp.eye(len(user), dtype=bool)
    own = jnp.diagonal(logits)
    both = [jax.nn.logsumexp(jnp.where(kept, x, -jnp.inf), axis=1) - own for x in (logits, logits.T)]
    return 0.5 * mean_over(both[0] + both[1], real)


def mmd(z: Float[Array, "N D"], domain: Int32[Array, " N"], real: Bool[Array, " N"], domains: int) -> Float[Array, ""]:
    """Squared maximum mean discrepancy between the codes of each domain and those of all others, the mean over domains
    (Gretton et al. 2012, JMLR 13, eq. 5, the biased estimate), with a mixture of Gaussian kernels."""
    member = (domain[:, None] == jnp.arange(domains, dtype=jnp.int32)[None, :]) & real[:, None]
    here, there = _shares(member), _shares(~member & real[:, None])
    distance = _squared_distances(z, z)
    scale = jax.lax.stop_gradient(_pair_mean(distance, real))
    gram = sum((jnp.exp(-distance / (width * scale + TINY)) for width in WIDTHS), jnp.float32(0.0)) / len(WIDTHS)
    apart = here - there
    both = (here.sum(0) > 0) & (there.sum(0) > 0)
    return mean_over(((gram @ apart) * apart).sum(0), both)


def orthogonality(shared: Float[Array, "*N D"], specific: Float[Array, "*N D"]) -> Float[Array, "*N"]:
    """Squared cosine of each row's two codes (Bousmalis et al. 2016, arXiv 1608.06019, eq. 5, a row at a time)."""
    return jnp.square((_unit(shared) * _unit(specific)).sum(-1))


def hsic(
    shared: Float[Array, "N D"], specific: Float[Array, "N E"], real: Bool[Array, " N"], kernel: Kernel
) -> Float[Array, ""]:
    """Hilbert-Schmidt independence criterion (Gretton et al. 2005, eq. 9) over its value for equal codes, so that it
    lies between 0 and 1 whatever the codes' scales (Kornblith et al. 2019, arXiv 1905.00414, eq. 1)."""
    share = _shares(real[:, None])[:, 0]
    if kernel == "linear":
        a, b = (x - (share @ x)[None, :] for x in (shared, specific))
        cross, own, other = ((x * share[:, None]).T @ y for x, y in ((a, b), (a, a), (b, b)))
        value, norms = jnp.square(cross).sum(), jnp.square(own).sum() * jnp.square(other).sum()
    else:
        a, b = (_centred(_gaussian(x, real), share) for x in (shared, specific))
        weight = share[:, None] * share[None, :]
        value, norms = (weight * a * b).sum(), (weight * a * a).sum() * (weight * b * b).sum()
    return value * jax.lax.rsqrt(norms + TINY)


def gaussian_log_likelihood(
    mean: Float[Array, "*N D"], log_variance: Float[Array, "*N D"], x: Float[Array, "*N D"]
) -> Float[Array, "*N"]:
    """log of the density of x under independent normals, without its constant."""
    return -0.5 * (jnp.square(x - mean) * jnp.exp(-log_variance) + log_variance).sum(-1)


def club(
    mean: Float[Array, "N D"], log_variance: Float[Array, "N D"], specific: Float[Array, "N D"], real: Bool[Array, " N"]
) -> Float[Array, ""]:
    """Contrastive log-ratio upper bound of the mutual information of two codes (Cheng et al. 2020, arXiv 2006.12013,
    eq. 13): mean_i of log q(y_i | x_i) - mean_j log q(y_j | x_i).

    Args:
        mean, log_variance: of the normal distribution q(. | x_i) that is guessed from the shared code.
    """
    share = _shares(real[:, None])
    first, second = ((share * moment).sum(0)[None, :] for moment in (specific, jnp.square(specific)))
    of_all = second - 2.0 * mean * first + jnp.square(mean)
    ratio = 0.5 * ((of_all - jnp.square(specific - mean)) * jnp.exp(-log_variance)).sum(-1)
    return mean_over(ratio, real)


def gaussian_kl(mean: Float[Array, "*N D"], log_variance: Float[Array, "*N D"]) -> Float[Array, "*N"]:
    """Kullback-Leibler divergence of independent normals from the standard normal, in nats (Kingma and Welling 2014,
    arXiv 1312.6114, appendix B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance).sum(-1)


def mean_over(value: Float[Array, " N"], real: Bool[Array, " N"]) -> Float[Array, ""]:
    """The mean of the rows that count; 0 where none does."""
    return jnp.where(real, value, 0.0).sum() / jnp.maximum(real.sum(), 1).astype(value.dtype)


def _shares(member: Bool[Array, "N G"]) -> Float[Array, "N G"]:
    """1 / n for each of a column's n members, 0 elsewhere."""
    count = member.astype(jnp.float32)
    return count / jnp.maximum(count.sum(0, keepdims=True), 1.0)


def _unit(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + TINY)


def _squared_distances(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    lengths = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None, :]
    return jnp.maximum(lengths - 2.0 * x @ y.T, 0.0)


def _pair_mean(matrix: Float[Array, "N N"], real: Bool[Array, " N"]) -> Float[Array, ""]:
    share = _shares(real[:, None])[:, 0]
    return share @ matrix @ share


def _gaussian(x: Float[Array, "N D"], real: Bool[Array, " N"]) -> Float[Array, "N N"]:
    """exp(-|x_i - x_j|^2 / mean squared distance)."""
    distance = _squared_distances(x, x)
    return jnp.exp(-distance / (jax.lax.stop_gradient(_pair_mean(distance, real)) + TINY))


def _centred(gram: Float[Array, "N N"], share: Float[Array, " N"]) -> Float[Array, "N N"]:
    row = share @ gram
    return gram - row[None, :] - row[:, None] + (share @ row)
