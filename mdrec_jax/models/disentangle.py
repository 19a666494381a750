"""Two codes in place of one state: what a user is like everywhere, and what is peculiar to the domain asked about.

The shared code is a projection of the mixed view and is never told the target's domain; the specific code is the
in-domain view's state with the domain's low-rank path, and knows nothing of other domains. Their sum is scored. The
shape is that of UniCDR (Cao et al., WSDM 2023) and FedDCSR (arXiv 2309.08420), on the views of ABXI (arXiv 2501.15118).
What keeps them apart are objectives (`objectives/disentangle.py`) and two closed forms, which are worked out anew
before each validation (`recalibrate`).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Float64, Int32, UInt32

from mdrec_jax.models.layers import domain_whitening, erasure
from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.domain_whitening import DomainWhitening
from mdrec_jax.models.layers.dropout import Site, dropout
from mdrec_jax.models.layers.erasure import Erasure
from mdrec_jax.models.layers.linear import DomainPaths, Linear
from mdrec_jax.models.layers.norm import Norm, unit_rms
from mdrec_jax.models.nnx_bridge import parameter

HIDDEN = 64
"""Width of the adversary's hidden layer."""


@dataclass(frozen=True)
class DisentangleConfig:
    """
    Args:
        codes: whether the scored state is made of a shared and a specific code; the in-domain view has to be on.
        shared_rank: width that the shared code is squeezed through; 0 leaves it at D.
        shared_learns: what moves the shared code: `all` losses, or only its own; with `own` it is a constant in the
            state that the next-item loss scores, and the specific code learns what it leaves to be said.
        domain_whitening: the shared code has one mean and one covariance, whatever the domain of the last event is; the
            target's domain's are put back before items are scored (layers/domain_whitening.py).
        cross_domain: in training, a third pass for the shared code of what the user did in other domains than the
            target's (`views.CrossDomain`), which then is scored by itself.
        erase: take from the specific code the directions that go with the shared code (layers/erasure.py), as many as
            `shared_rank`.
    """

    codes: bool = False
    shared_rank: int = 0
    shared_learns: Literal["all", "own"] = "all"
    domain_whitening: bool = False
    cross_domain: bool = False
    erase: bool = False

    def __post_init__(self) -> None:
        check("disentangle.shared_rank", self.shared_rank, self.shared_rank >= 0, "a width, >= 0")
        check("disentangle.erase", self.erase, self.shared_rank > 0 or not self.erase, "False without a shared rank")


class DomainReaders(nnx.Module):
    """What tries to tell the domain from a code, in float32. They are trained beside the model, where an objective asks
    for it, and score nothing."""

    def __init__(self, key: jax.Array, dim: int, width: int, domains: int) -> None:
        keys = jax.random.split(jax.random.split(key, 8)[7])
        self.domains = domains
        # They tell a silo's own domains apart.
        self.up = Linear(keys[0], width, HIDDEN, ("code", "mlp"), scope="private")
        self.down = Linear(keys[1], HIDDEN, domains, ("mlp", "domain"), scope="private")
        self.linear = Linear(jax.random.fold_in(key, 2), dim, domains, ("embed", "domain"), scope="private")

    def of_shared(self, code: Float[Array, "R T _"]) -> Float[Array, "R T G"]:
        """Logits of the last event's domain."""
        return self.down(jax.nn.gelu(self.up(unit_rms(code)), approximate=True))

    def of_specific(self, code: Float[Array, "R T D"]) -> Float[Array, "R T G"]:
        """Logits of the code's own domain."""
        return self.linear(code)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Codes:
    """A disentangled model's codes, before they are made ready for inner products; r is the shared code's width."""

    shared: Float[Array, "R T D"]
    specific: Float[Array, "R T D"]
    unwhitened: Float[Array, "R T r"]
    """The shared code at its own width, before it is whitened and mapped to D."""
    whitened: Float[Array, "R T r"] | None
    """The same whitened, not told the target's domain."""
    whole: Float[Array, "R T D"]
    """The specific code before the erasure."""
    readers: DomainReaders
    erasure: Erasure | None
    cross_domain: Float[Array, "R T D"] | None = None
    """In training, the shared code of what the user did in other domains than the target's; 0 (which moves nothing)
    where that is nothing."""


class TrainingCodes(Protocol):
    """What closed forms are worked out from: a model's codes on training histories, without dropout."""

    def covariance(self, first: str, second: str) -> Float64[np.ndarray, "E E"]:
        """Of two codes side by side, at training targets."""
        ...

    def ends(self, code: str) -> tuple[Float32[np.ndarray, "N D"], Int32[np.ndarray, " N"]]:
        """A code where training histories end, and the domain of the last event."""
        ...


class Disentangled(nnx.Module):
    """The two codes and the state that is scored; what has the place of `views.Fusion`.

    shared = norm(m + P m),   specific = norm(d + Q d + C_g d),   m the mixed state, d the state after the user's last
    event in the target's domain g. A shared code of rank r is norm(B A m) with an inner width of r. One that is
    whitened is z = S(m + P m), or S(A m), S that of the domain of the last event; norm(S^-1 z), or norm(B S^-1 z), is
    what scores items, S that of the target's domain.
    """

    def __init__(
        self, key: jax.Array, dim: int, domains: int, config: DisentangleConfig, *, path_rank: int, rate: float
    ) -> None:
        """
        Args:
            domains: G.
            path_rank: of the domains' low-rank paths C; 0 has none.
            rate: of dropout on what each map adds.
        """
        keys, rank = jax.random.split(key, 4), config.shared_rank
        self.shared_learns, self.domains, self.rate = config.shared_learns, domains, rate
        self.shared_norm, self.specific_norm = Norm(dim), Norm(dim)
        self.shared_in = Linear(keys[0], dim, rank, ("embed", "code")) if rank else None
        inner, width, gain = (("code", "embed"), rank, 1.0) if rank else (("embed", "embed_out"), dim, 0.5)
        self.shared_map = Linear(keys[1], width, dim, inner, gain=gain)
        self.specific_map = Linear(keys[2], dim, dim, ("embed", "embed_out"), gain=0.5)
        self.paths = DomainPaths(keys[3], dim, domains, path_rank) if path_rank else None
        self.readers = DomainReaders(key, dim, rank if rank and config.domain_whitening else dim, domains)
        self.erasure = Erasure(jax.random.fold_in(key, 1), rank, dim) if config.erase else None
        self.whitening = DomainWhitening(rank or dim, domains) if config.domain_whitening else None
        self.null = parameter(jnp.zeros((dim,)), "embed", group="vector", scope="private")

    def __call__(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"],
        domain: Int32[Array, "R T"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Codes]:
        """The state that is scored, and the codes.

        Args:
            mixed: m. Nothing here tells it the target's domain.
            own: d, the in-domain view's state after the last event in the target's domain.
            domain: of each token's own event, the last that its state has read.
        """
        shared, whole = self.shared(mixed, domain, target_domain, seeds), self._specific(own, target_domain, seeds)
        # After the norm: a norm that came behind could bend what is left back into what was taken.
        specific = whole if self.erasure is None else self.erasure(whole)
        unwhitened = self._unwhitened(mixed, seeds)
        whitened = None if self.whitening is None else self.whitening(unwhitened, domain)
        codes = Codes(shared, specific, unwhitened, whitened, whole, self.readers, self.erasure)
        if self.shared_learns == "own":
            shared = jax.lax.stop_gradient(shared)
        return shared + specific, codes

    def shared(
        self,
        x: Float[Array, "R T D"],
        domain: Int32[Array, "R T"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        """The shared code of states whose last events are of one domain, as items of another are scored with."""
        y = self._unwhitened(x, seeds)
        if self.whitening is not None:
            y = self.whitening.recoloured(self.whitening(y, domain), target_domain)
        return self.shared_norm(y if self.shared_in is None else self.shared_map(y))

    def _unwhitened(self, x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None) -> Float[Array, "R T _"]:
        """m + P m, or A m."""
        if self.shared_in is not None:
            return self.shared_in(x)
        return x + dropout(self.shared_map(x), seeds, Site.SHARED_MAP, self.rate)

    def _specific(
        self, own: Float[Array, "R T D"], target_domain: Int32[Array, "R T"], seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        """Before the erasure."""
        y = own + dropout(self.specific_map(own), seeds, Site.SPECIFIC_MAP, self.rate)
        if self.paths is not None:
            y = y + dropout(self.paths(own, target_domain), seeds, Site.TARGET_PATH, self.rate)
        return self.specific_norm(y)

    def recalibrate(self, codes: TrainingCodes) -> None:
        """Puts the closed forms of the erasure's map and of the whitening's statistics in their places."""
        if self.erasure is not None:
            found = codes.covariance("unwhitened", "whole")
            # Codes may be too large for their squares where parameters are not: the validation finds them.
            if np.isfinite(found).all():
                kernel = self.erasure.map.kernel
                kernel.set_value(jnp.asarray(erasure.closed_form(found, kernel.get_value().shape[0])))
        if self.whitening is not None:
            maps = domain_whitening.fit_whitening(*codes.ends("unwhitened"), self.domains)
            for name, value in maps.items():
                getattr(self.whitening, name).set_value(jnp.asarray(value))
