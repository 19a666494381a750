"""What a model of the flagship's family is: which parts are on, and their sizes."""

from dataclasses import dataclass, field

from mdrec_jax.models.checks import check
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.experts import ExpertsConfig
from mdrec_jax.models.items import ScoreKind
from mdrec_jax.models.looping import LoopConfig
from mdrec_jax.models.memory import BanksConfig, WrittenConfig
from mdrec_jax.models.mixers import MixersConfig
from mdrec_jax.models.sasrec import SasrecConfig
from mdrec_jax.models.views import ViewsConfig


@dataclass(frozen=True)
class MdrecConfig:
    """What a model of this family is.

    Args:
        encoder: sizes, norms, dropout and scores, as of SASRec.
        views: the in-domain view and the domains' own paths.
        loop: how often a block may be applied.
        banks: learned memory banks.
        written: a user's written memory.
        mixers: routed mixers in place of attention alone.
        experts: routed experts in place of the dense feed-forward layer.
        disentangle: a shared and a specific code in place of the views' fusion.
    """

    encoder: SasrecConfig = field(default_factory=SasrecConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    banks: BanksConfig = field(default_factory=BanksConfig)
    written: WrittenConfig = field(default_factory=WrittenConfig)
    mixers: MixersConfig = field(default_factory=MixersConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    disentangle: DisentangleConfig = field(default_factory=DisentangleConfig)

    def __post_init__(self) -> None:
        codes = self.disentangle.codes
        blind = bool(self.mixers.kinds) and "attention" not in self.mixers.kinds
        delta = self.written.mode == "delta"
        check(
            "written.mode", "delta", not (blind and delta), "another mode: no mixer is attention, whose keys it writes"
        )
        check("disentangle.codes", codes, self.views.in_domain or not codes, "False without views.in_domain")

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def init_scale(self) -> float:
        return self.encoder.init_scale

    @property
    def scores(self) -> ScoreKind:
        return self.encoder.scores

    @property
    def gates(self) -> dict[str, tuple[str, ...]]:
        """The routed layers that are on, and the names of what each chooses from."""
        experts = self.experts.names if self.experts.each else ()
        return {name: each for name, each in (("mixers", self.mixers.kinds), ("experts", experts)) if each}
