"""Two codes in place of one state: what a user is like everywhere, and what is peculiar to the domain asked about.

The shared code is a projection of the mixed view and is never told the target's domain; the specific code is the
in-domain view's state with the domain's low-rank path, and knows nothing of other domains. Their sum is scored. The
shape is that of UniCDR (Cao et al., WSDM 2023) and FedDCSR (arXiv 2309.08420, whose codes may be variational), on the
views of ABXI (arXiv 2501.15118). The losses are switches; all of them are of training alone.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from mdrec_jax.models import code_losses
from mdrec_jax.models.checks import check, check_fields
from mdrec_jax.models.erasure import Erasure
from mdrec_jax.models.layers import Linear, Norm, NormKind, at_least_float32, dropout, fold_seeds
from mdrec_jax.models.pure import parameter
from mdrec_jax.models.standard import Standard
from mdrec_jax.models.views import DomainPaths
from mdrec_jax.objectives import disentanglement as formulas
from mdrec_jax.types import Batch

WEIGHTS = (
    "shared_alone", "specific_alone", "specific_domain", "across", "info_nce", "mmd", "adversary", "orthogonal", "hsic",
    "club", "kl",
)  # fmt: skip


@dataclass(frozen=True)
class DisentangleConfig:
    """
    Args:
        codes: whether the scored state is made of a shared and a specific code; the in-domain view has to be on.
        fusion: the state is the codes' `sum`, or their sum weighted by a learned `gate` for each channel.
        shared_rank: width that the shared code is squeezed through; 0 leaves it at D.
        variational: codes are drawn from normal distributions in training, and are their means otherwise.
        shared_alone, specific_alone: sufficiency: weight of the next-item loss of each code by itself. A shared code
            that is told no domain can only do well at it among the items of the target's domain
            (`loss.softmax_over target_domain`).
        specific_domain: sufficiency: weight of the loss of a linear reader of the specific code's domain (as of
            the domain's own latent code in Ilse et al. 2019, arXiv 1905.10427).
        across: weight of the next-item loss of the shared code of what the user did in other domains than the target's
            (models/elsewhere.py): a third pass through the encoder, in training.
        shared_learns: what moves the shared code: `all` losses, or only its own; with `own` it is a constant in the
            state that the next-item loss scores, and the specific code learns what it leaves to be said.
        standardise: the shared code has one mean and one covariance, whatever the domain of the last event is; the
            target's domain's are put back before items are scored (models/standard.py). It is what alignment is asked
            of then.
        erase: take from the specific code the directions that go with the shared code (models/erasure.py), as many as
            `shared_rank`. They are learned, and worked out anew before each look at the validation split.
        info_nce: alignment: weight of the contrast of a user's shared code seen from one domain with the same user's
            seen from another.
        mmd: alignment: weight of the discrepancy between the domains' distributions of shared codes.
        adversary: alignment: strength of the reversed gradient of a classifier that tells the domain of the last event
            from the shared code.
        orthogonal, hsic, club: independence of the two codes: weight of their squared cosine, of the normalised
            Hilbert-Schmidt criterion, and of an upper bound of their mutual information.
        kl: weight of the divergence of variational codes from the standard normal.
        temperature: of `info_nce`.
        kernel: of `hsic`.
        sample: tokens of a row that `info_nce`, `mmd`, `hsic`, `club` and `erase` compare.
        hidden: width of the classifier, and of the guess that `club` needs.
    """

    codes: bool = False
    fusion: Literal["sum", "gate"] = "sum"
    shared_rank: int = 0
    variational: bool = False
    shared_alone: float = 0.0
    specific_alone: float = 0.0
    specific_domain: float = 0.0
    across: float = 0.0
    shared_learns: Literal["all", "own"] = "all"
    standardise: bool = False
    erase: bool = False
    info_nce: float = 0.0
    mmd: float = 0.0
    adversary: float = 0.0
    orthogonal: float = 0.0
    hsic: float = 0.0
    club: float = 0.0
    kl: float = 0.0
    temperature: float = 0.2
    kernel: formulas.Kernel = "linear"
    sample: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            value = getattr(self, name)
            check(f"disentangle.{name}", value, value >= 0, "a weight, >= 0")
            check(f"disentangle.{name}", value, self.codes or not value, "0 without disentangle.codes")
        check("disentangle.kl", self.kl, self.variational or not self.kl, "0 without disentangle.variational")
        check("disentangle.shared_rank", self.shared_rank, self.shared_rank >= 0, "a width, >= 0")
        check("disentangle.erase", self.erase, self.shared_rank > 0 or not self.erase, "False without a shared rank")
        check_fields(self, counts=("sample", "hidden"), positives=("temperature",))

    @property
    def scored(self) -> dict[str, float]:
        """The codes that the next-item loss scores by themselves, and its weights."""
        weights = {"shared": self.shared_alone, "specific": self.specific_alone, "across": self.across}
        return {name: weight for name, weight in weights.items() if weight}


type Codes = dict[str, Float[Array, "R T D"]]
"""`shared` and `specific`, and what belongs to them."""


class Disentangled(nnx.Module):
    """The two codes and the state that is scored; what has the place of `models.mdrec.Fusion`.

    shared = norm(m + P m),   specific = norm(d + Q d + C_g d),   m the mixed state, d the state after the user's last
    event in the target's domain g. A shared code of rank r is norm(B A m) with an inner width of r. One that is
    standardised is z = S(m + P m), or S(A m), S that of the domain of the last event; norm(S^-1 z), or norm(B S^-1 z),
    is what scores items, S that of the target's domain.
    """

    def __init__(
        self,
        key: jax.Array,
        dim: int,
        domains: int,
        config: DisentangleConfig,
        *,
        norm: NormKind,
        rate: float,
        path_rank: int,
    ) -> None:
        """
        Args:
            domains: G.
            norm: of both codes.
            rate: of dropout on what each map adds.
            path_rank: of the domains' low-rank paths C; 0 has none.
        """
        keys = jax.random.split(key, 9)
        self.config, self.domains, self.rate = config, domains, rate
        axes = ("embed", "embed")
        self.shared_norm, self.specific_norm = Norm(dim, norm), Norm(dim, norm)
        squeezed = config.shared_rank > 0
        self.shared_in = Linear(keys[0], dim, config.shared_rank, ("embed", "code")) if squeezed else None
        inner = ("code", "embed") if squeezed else axes
        width, gain = (config.shared_rank, 1.0) if squeezed else (dim, 0.5)
        self.shared_map = Linear(keys[1], width, dim, inner, gain=gain)
        self.specific_map = Linear(keys[2], dim, dim, axes, gain=0.5)
        self.paths = DomainPaths(keys[3], dim, domains, path_rank) if path_rank else None
        self.gate = Linear(keys[4], 2 * dim, dim, axes, gain=0.1) if config.fusion == "gate" else None
        spreads = (Linear(key, dim, dim, axes, gain=0.1, bias_value=-3.0) for key in keys[5:7])
        self.shared_spread, self.specific_spread = spreads if config.variational else (None, None)
        # It tells a silo's own domains apart.
        adversary, code = config.adversary > 0, width if config.standardise else dim
        self.classifier = (
            code_losses.Perceptron(keys[7], code, config.hidden, domains, scope="private") if adversary else None
        )
        reader_key, reads = jax.random.fold_in(key, 2), config.specific_domain > 0
        self.reader = Linear(reader_key, dim, domains, ("embed", "domain"), scope="private") if reads else None
        self.guess = code_losses.Perceptron(keys[8], dim, config.hidden, 2 * dim) if config.club else None
        erasure_key = jax.random.fold_in(key, 1)
        self.erasure = Erasure(erasure_key, config.shared_rank, dim) if config.erase else None
        self.standard = Standard(width, domains) if config.standardise else None
        self.null = parameter(jnp.zeros((dim,)), "embed", group="vector", scope="private")

    def __call__(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"],
        here: Float[Array, "R T D"],
        batch: Batch,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], dict[str, Float[Array, "R T D"]], dict[str, Float[Array, ""]]]:
        """The state, the codes that it is made of, `shared` and `specific` (and `standard`, which is standardised and
        not told the target's domain), and the losses: sums over targets.

        Args:
            mixed: m. Nothing here tells it the target's domain.
            own: d, the in-domain view's state after the last event in the target's domain.
            here: the in-domain view's state after the token's own event.
        """
        domain, target_domain = jnp.asarray(batch.domain), jnp.asarray(batch.target_domain)
        state, codes, means, spread = self.state(mixed, own, domain, target_domain, seeds)
        if seeds is None:
            return state, codes, {}
        pair = None
        if self.config.info_nce:
            pair = self._aligned(here, domain, seeds), self._aligned(own, target_domain, seeds)
        wide = {name: at_least_float32(code) for name, code in codes.items()}
        wide = {"standard": wide["shared"]} | wide
        losses = self._token_losses(wide, batch) | self._batch_losses(wide, pair, batch, seeds)
        if self.erasure is not None and self.shared_in is not None:
            inner, whole = self.shared_in(mixed), means["specific"]
            losses["erase"] = self._erasure_loss(self.erasure, inner, whole, batch, seeds)
        if self.config.kl:
            divergence = sum(
                (formulas.gaussian_kl(at_least_float32(means[n]), at_least_float32(spread[n])) for n in means),
                jnp.float32(0.0),
            )
            losses["kl"] = self.config.kl * code_losses.over(divergence, code_losses.targets(batch))
        return state, codes, losses

    def state(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"],
        domain: Int32[Array, "R T"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Codes, Codes, Codes]:
        """The state that is scored, the codes, and, of variational ones, their means and logarithms of variance.

        Args:
            domain: of each token's own event, the last that its state has read.
        """
        means = {
            "shared": self.asked(mixed, domain, target_domain, seeds),
            "specific": self._specific(own, target_domain, seeds),
        }
        codes, spread = means, {}
        if self.shared_spread is not None and self.specific_spread is not None:
            spread = {"shared": self.shared_spread(mixed), "specific": self.specific_spread(own)}
            codes = {
                name: _drawn(means[name], spread[name], fold_seeds(seeds, jnp.uint32(number)))
                for number, name in enumerate(means, start=2000)
            }
        if self.erasure is not None:
            # After the norm: a norm that came behind could bend what is left back into what was taken.
            codes = codes | {"specific": self.erasure(codes["specific"])}
        if self.standard is not None:
            codes = codes | {"standard": self.standard(self._before_norm(mixed, seeds), domain)}
        shared, specific = codes["shared"], codes["specific"]
        if self.config.shared_learns == "own":
            shared = jax.lax.stop_gradient(shared)
        if self.gate is None:
            return shared + specific, codes, means, spread
        open_ = jax.nn.sigmoid(self.gate(jnp.concatenate([shared, specific], axis=-1)))
        return 2.0 * (open_ * shared + (1.0 - open_) * specific), codes, means, spread

    def unrefreshed(
        self, mixed: Float[Array, "R T D"], own: Float[Array, "R T D"], target_domain: Int32[Array, "R T"]
    ) -> dict[str, Float[Array, "R T _"]]:
        """What the closed forms are worked out from (train/refresh.py): the erasure's map lies between `inner`, the
        shared code's inner width, and `whole`, the specific code before the erasure; `plain` is the shared code before
        it is standardised and normed. Empty where there is nothing to work out."""
        found = {}
        if self.erasure is not None and self.shared_in is not None:
            found |= {"inner": self.shared_in(mixed), "whole": self._specific(own, target_domain, None)}
        if self.standard is not None:
            found |= {"plain": self._before_norm(mixed, None)}
        return found

    def asked(
        self,
        x: Float[Array, "R T D"],
        domain: Int32[Array, "R T"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        """The shared code of states whose last events are of one domain, as items of another are scored with."""
        y = self._before_norm(x, seeds)
        if self.standard is not None:
            y = self.standard.told(self.standard(y, domain), target_domain)
        return self.shared_norm(y if self.shared_in is None else self.shared_map(y))

    def _aligned(
        self, x: Float[Array, "R T D"], domain: Int32[Array, "R T"], seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T _"]:
        """The code that is the same for every domain, or should be."""
        if self.standard is not None:
            return self.standard(self._before_norm(x, seeds), domain)
        return self.asked(x, domain, domain, seeds)

    def _before_norm(self, x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None) -> Float[Array, "R T _"]:
        """m + P m, or A m."""
        return self.shared_in(x) if self.shared_in is not None else x + dropout(self.shared_map(x), seeds, 7, self.rate)

    def _specific(
        self, own: Float[Array, "R T D"], target_domain: Int32[Array, "R T"], seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        """Before the erasure."""
        y = own + dropout(self.specific_map(own), seeds, 9, self.rate)
        if self.paths is not None:
            y = y + dropout(self.paths(own, target_domain), seeds, 8, self.rate)
        return self.specific_norm(y)

    def _token_losses(self, codes: dict[str, Float[Array, "R T D"]], batch: Batch) -> dict[str, Float[Array, ""]]:
        """Losses that a token has by itself."""
        config, losses, real = self.config, {}, code_losses.targets(batch)
        if self.classifier is not None:
            losses["adversary"] = code_losses.over(
                code_losses.adversary(self.classifier, codes["standard"], batch, config.adversary), real
            )
        if self.reader is not None:
            known = real & (jnp.asarray(batch.previous_in_target_domain) >= 0)
            missed = code_losses.unlikely(self.reader(codes["specific"]), jnp.asarray(batch.target_domain))
            losses["specific_domain"] = config.specific_domain * code_losses.over(missed, known)
        if config.orthogonal:
            squared = formulas.orthogonality(codes["shared"], codes["specific"])
            losses["orthogonal"] = config.orthogonal * code_losses.over(squared, real)
        return losses

    def _batch_losses(
        self,
        codes: dict[str, Float[Array, "R T D"]],
        pair: tuple[Float[Array, "R T D"], Float[Array, "R T D"]] | None,
        batch: Batch,
        seeds: UInt32[Array, "R 2"],
    ) -> dict[str, Float[Array, ""]]:
        """Losses of a sample of the global batch's tokens, each times the number of this device's targets."""
        config, values = self.config, {}
        if not (config.info_nce or config.mmd or config.hsic or config.club):
            return {}
        everywhere = code_losses.sampler(seeds, batch.item.shape[1], config.sample)
        targets = code_losses.targets(batch)
        real, domain = everywhere(targets), everywhere(jnp.asarray(batch.domain))
        standard, shared, specific = (everywhere(codes[name]) for name in ("standard", "shared", "specific"))
        if pair is not None:
            first, second = (everywhere(at_least_float32(x)) for x in pair)
            crosses = everywhere(code_losses.crosses(batch)) & real
            values["info_nce"] = formulas.info_nce(
                first, second, everywhere(code_losses.users(batch)), crosses, config.temperature
            )
        if config.mmd:
            values["mmd"] = formulas.mmd(standard, domain, real, self.domains)
        if config.hsic:
            values["hsic"] = formulas.hsic(shared, specific, real, config.kernel)
        losses = {name: getattr(config, name) * value for name, value in values.items()}
        if self.guess is not None:
            losses["club"] = code_losses.club(self.guess, shared, specific, real, config.club)
        number = targets.sum().astype(jnp.float32)
        return {name: value * number for name, value in losses.items()}

    def _erasure_loss(
        self,
        erasure: Erasure,
        inner: Float[Array, "R T r"],
        whole: Float[Array, "R T D"],
        batch: Batch,
        seeds: UInt32[Array, "R 2"],
    ) -> Float[Array, ""]:
        """Of the shared code's inner width and the specific code before the erasure, times this device's targets."""
        everywhere, targets = (
            code_losses.sampler(seeds, batch.item.shape[1], self.config.sample),
            code_losses.targets(batch),
        )
        z, x = (everywhere(at_least_float32(v)) for v in (inner, whole))
        return erasure.misfit(z, x, everywhere(targets)) * targets.sum().astype(jnp.float32)


def _drawn(
    mean: Float[Array, "R T D"], log_variance: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None
) -> Float[Array, "R T D"]:
    """A draw of each normal distribution; its mean without seeds."""
    if seeds is None:
        return mean
    keys = jax.random.wrap_key_data(seeds)
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * log_variance) * noise
