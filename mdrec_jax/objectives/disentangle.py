"""What keeps a disentangled model's codes apart, and makes the shared codes of all domains alike, in training.

Sufficiency: each code is of use by itself. The shared one scores the next item, and so does that of what the user did
in other domains (`cross_domain`); a linear reader of the specific one tells its domain (as of the domain's own latent
code in Ilse et al. 2019, arXiv 1905.10427). Alignment: the shared codes of all domains have one distribution (`mmd`),
and a classifier finds no domain in them (`adversary`). The erasure's map is learned beside the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.disentangle import Codes, DomainReaders
from mdrec_jax.models.layers.dropout import Fold, fold_seeds
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.types import Batch

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Squared widths of the mixture of Gaussian kernels, over the mean squared distance (Long et al. 2015, section 4.2)."""
TINY = 1e-12


@dataclass(frozen=True)
class DisentangleLossConfig:
    """
    Args:
        shared_alone: weight of the next-item loss of the shared code by itself. It is told no domain and can only do
            well at it among the items of the target's domain (`loss.softmax_over target_domain`).
        specific_domain: weight of the loss of a linear reader of the specific code's domain.
        mmd: weight of the discrepancy between the domains' distributions of shared codes.
        adversary: strength of the reversed gradient of a classifier that tells the domain of the last event from the
            shared code.
        sample: tokens of a row that `mmd` and the erasure compare.
    """

    shared_alone: float = 0.0
    specific_domain: float = 0.0
    mmd: float = 0.0
    adversary: float = 0.0
    sample: int = 16

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < float("inf"):
                found = getattr(self, name)
                raise ConfigError("out of range", column=f"objectives.disentangle.{name}", found=found, expected=">= 0")
        if self.sample < 1:
            raise ConfigError(
                "out of range", column="objectives.disentangle.sample", found=self.sample, expected=">= 1"
            )

    @property
    def used(self) -> bool:
        """Whether a loss reads the codes."""
        return any(getattr(self, name) for name in WEIGHTS)

    def losses(self, seen: Forward) -> Weighted:
        codes, scored = seen.encoded.codes, seen.model.scored_states
        if codes is None:
            return {}
        shared = at_least_float32(codes.shared if codes.whitened is None else codes.whitened)
        real, parts = jnp.asarray(seen.batch.weight) > 0, {}
        for name, (weight, value) in of_tokens(self, codes, shared, seen.batch).items():
            parts[name] = weight, jnp.where(real, value, 0.0).sum() / seen.targets
        # This device's share of what all devices have is its share of the targets.
        share = real.sum().astype(jnp.float32) / seen.targets
        for name, (weight, value) in of_samples(self, codes, shared, seen).items():
            parts[name] = weight, value * share
        if self.shared_alone:
            parts["shared_alone"] = self.shared_alone, seen.score(scored(codes.shared), seen.weight)
        if codes.cross_domain is not None:
            parts["cross_domain_alone"] = 1.0, seen.score(scored(codes.cross_domain), seen.weight)
        return parts


WEIGHTS = ("shared_alone", "specific_domain", "mmd", "adversary")


def of_tokens(
    config: DisentangleLossConfig, codes: Codes, shared: Float[Array, "R T _"], batch: Batch
) -> dict[str, tuple[float, Float[Array, "R T"]]]:
    """Losses that a token has by itself, and their weights."""
    losses, domain = {}, jnp.asarray(batch.domain)
    if config.adversary:
        losses["adversary"] = 1.0, adversary(codes.readers, shared, domain, config.adversary)
    if config.specific_domain:
        known = jnp.asarray(batch.previous_in_target_domain) >= 0
        logits = codes.readers.of_specific(at_least_float32(codes.specific))
        missed = unlikely(logits, jnp.asarray(batch.target_domain))
        losses["specific_domain"] = config.specific_domain, jnp.where(known, missed, 0.0)
    return losses


def of_samples(
    config: DisentangleLossConfig, codes: Codes, shared: Float[Array, "R T _"], seen: Forward
) -> dict[str, tuple[float, Float[Array, ""]]]:
    """Losses of a sample of the global batch's tokens: every device has the whole of them."""
    if not config.mmd and codes.erasure is None:
        return {}
    everywhere, losses = sampler(seen, config.sample), {}
    real = everywhere(jnp.asarray(seen.batch.weight) > 0)
    if config.mmd:
        domain = everywhere(jnp.asarray(seen.batch.domain))
        losses["mmd"] = config.mmd, mmd(everywhere(shared), domain, real, codes.readers.domains)
    if codes.erasure is not None:
        inner, whole = (everywhere(at_least_float32(x)) for x in (codes.unwhitened, codes.whole))
        losses["erase"] = 1.0, codes.erasure.misfit(inner, whole, real)
    return losses


def sampler(seen: Forward, number: int) -> Callable[[Array], Array]:
    """A function from [R, T, ...] to [N, ...]: evenly spread columns of every row of the global batch, the first of
    which is drawn."""
    columns = seen.batch.item.shape[1]
    stride = max(1, columns // number)
    drawn = fold_seeds(seen.seeds, Fold.SAMPLE)
    assert drawn is not None
    first = (drawn[:, 0] % jnp.uint32(stride)).astype(jnp.int32)
    column = first[:, None] + stride * jnp.arange(columns // stride, dtype=jnp.int32)[None, :]

    def everywhere(x: Array) -> Array:
        taken = jnp.take_along_axis(x, column.reshape(*column.shape, *(1,) * (x.ndim - 2)), axis=1)
        return seen.spread.gather(taken.reshape(-1, *x.shape[2:]))

    return everywhere


def adversary(
    readers: DomainReaders, shared: Float[Array, "R T _"], domain: Int32[Array, "R T"], strength: float
) -> Float[Array, "R T"]:
    """Cross-entropy of the guessed domains of the events; the code's gradient is reversed.

    It is reversed only where the guess is better than chance. Pushed further, codes run ahead of the classifier and
    tell the domain by the answer that it gets wrong.
    """

    def missed(x: Float[Array, "R T _"]) -> Float[Array, "R T"]:
        return unlikely(readers.of_shared(x), domain)

    better = missed(jax.lax.stop_gradient(shared)) < jnp.log(jnp.float32(readers.domains))
    return missed(gradient_reversal(shared, strength * better.astype(jnp.float32)))


def unlikely(logits: Float[Array, "R T G"], domain: Int32[Array, "R T"]) -> Float[Array, "R T"]:
    """-log softmax(logits) at each token's domain."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), domain[..., None], axis=-1)[..., 0]


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


def mean_over(value: Float[Array, " N"], real: Bool[Array, " N"]) -> Float[Array, ""]:
    """The mean of the rows that count; 0 where none does."""
    return jnp.where(real, value, 0.0).sum() / jnp.maximum(real.sum(), 1).astype(value.dtype)


def _shares(member: Bool[Array, "N G"]) -> Float[Array, "N G"]:
    """1 / n for each of a column's n members, 0 elsewhere."""
    count = member.astype(jnp.float32)
    return count / jnp.maximum(count.sum(0, keepdims=True), 1.0)


def _squared_distances(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    lengths = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None, :]
    return jnp.maximum(lengths - 2.0 * x @ y.T, 0.0)


def _pair_mean(matrix: Float[Array, "N N"], real: Bool[Array, " N"]) -> Float[Array, ""]:
    share = _shares(real[:, None])[:, 0]
    return share @ matrix @ share
