"""The parts of a recommender and of its training that an ablation turns off, one line each."""

from dataclasses import dataclass, field, fields
from typing import Any

from mdrec_jax.config import RunConfig
from mdrec_jax.errors import ConfigError
from mdrec_jax.experiments.config_fields import value_of, with_fields
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.objectives.disentangle import WEIGHTS


@dataclass(frozen=True)
class Switch:
    """
    Args:
        name: of the part.
        off: the fields that turn it off, and their values then. Any other value of one of them means that it is on.
        also: further fields and values that have to go with it: what is built on the part.
        within: the field of another part that this one is nothing without.
    """

    name: str
    off: dict[str, Any]
    also: dict[str, Any] = field(default_factory=dict)
    within: str | None = None

    def is_on(self, config: RunConfig) -> bool:
        there = self.within is None or value_of(config, self.within)
        return bool(there) and any(value_of(config, name) != value for name, value in self.off.items())


VIEW, CODES, RANK = "model.views.in_domain", "model.disentangle.codes", {"model.views.path_rank": 0}
INTRA, INTER = "objectives.contrastive.intra", "objectives.contrastive.inter"
TRANSFER = {"objectives.transfer.weight": 0.0}


def _losses(*names: str) -> dict[str, Any]:
    return {f"objectives.disentangle.{name}": 0.0 for name in names}


WITHOUT_CODES = {f"model.disentangle.{field.name}": field.default for field in fields(DisentangleConfig)} | _losses(
    *WEIGHTS
)
SWITCHES = (
    Switch("in-domain view", {VIEW: False}, {**RANK, **WITHOUT_CODES, INTRA: 0.0, INTER: 0.0, **TRANSFER}),
    Switch("domain paths", RANK),
    Switch("shared and specific codes", {CODES: False}, WITHOUT_CODES),
    Switch("sufficiency", _losses("shared_alone", "specific_domain"), within=CODES),
    Switch(
        "cross-domain code",
        {"model.disentangle.cross_domain": False},
        {"model.disentangle.shared_learns": "all"},
        CODES,
    ),
    Switch("domain whitening", {"model.disentangle.domain_whitening": False}, within=CODES),
    Switch("erasure", {"model.disentangle.erase": False}, within=CODES),
    Switch("alignment", _losses("mmd", "adversary"), within=CODES),
    Switch("loop", {"model.loop.max_steps": 1}),
    Switch("local memory", {"model.learned_memory.local": 0}),
    Switch("shared memory", {"model.learned_memory.shared": 0}),
    Switch("user memory", {"model.user_memory": False}),
    Switch("mixers", {"model.mixers.kinds": ()}),
    Switch("experts", {"model.experts.per_width": 0}),
    Switch("contrast within domains", {INTRA: 0.0}),
    Switch("contrast between domains", {INTER: 0.0}),
    Switch("transfer weights", TRANSFER),
    Switch("contrast of categories", {"objectives.taxonomy.weight": 0.0}),
    Switch("allowing for noise", {"loss.noise": 0.0}),
)


def switches_on(config: RunConfig) -> list[Switch]:
    """The parts that a run has.

    Raises:
        ConfigError: a run of another model.
    """
    if not isinstance(config.model, RecommenderConfig):
        raise ConfigError(
            "this model has no parts to turn off",
            column="model",
            found=type(config.model).__name__,
            expected=RecommenderConfig.__name__,
        )
    return [switch for switch in SWITCHES if switch.is_on(config)]


def without(config: RunConfig, *switches: Switch) -> RunConfig:
    """The run with some parts turned off."""
    values = {}
    for switch in switches:
        values |= switch.off | switch.also
    return with_fields(config, values)


def all_off(config: RunConfig) -> RunConfig:
    """The run with all parts turned off: SASRec."""
    return without(config, *switches_on(config))
