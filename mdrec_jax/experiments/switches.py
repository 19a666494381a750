"""The parts of `mdrec` and of its training that an ablation turns off, one line each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mdrec_jax.config import RunConfig
from mdrec_jax.errors import ConfigError
from mdrec_jax.experiments.fields import value_of, with_fields
from mdrec_jax.models.disentangle import WEIGHTS
from mdrec_jax.models.mdrec import MdrecConfig


@dataclass(frozen=True)
class Switch:
    """
    Args:
        name: of the part.
        off: the fields that turn it off, and their values then. Any other value of one of them means that it is on.
        also: of a run, further fields and values that have to go with it: what is built on the part.
        within: the field of another part that this one is nothing without.
    """

    name: str
    off: dict[str, Any]
    also: Callable[[RunConfig], dict[str, Any]] = lambda _: {}
    within: str | None = None

    def is_on(self, config: RunConfig) -> bool:
        there = self.within is None or value_of(config, self.within)
        return bool(there) and any(value_of(config, name) != value for name, value in self.off.items())


VIEW, CODES = "model.views.in_domain", "model.disentangle.codes"
RANKS = {"model.views.domain_rank": 0, "model.views.invariant_rank": 0}
INTRA, INTER = "objectives.contrastive.intra", "objectives.contrastive.inter"
INFOMAX = {"objectives.infomax.weight": 0.0, "model.views.critic": False}
TRANSFER = {"objectives.transfer.weight": 0.0}


def _losses(*names: str) -> dict[str, Any]:
    return {f"model.disentangle.{name}": 0.0 for name in names}


def _on_the_view(config: RunConfig) -> dict[str, Any]:
    contrast = {INTRA: 0.0, INTER: 0.0} if config.objectives.contrastive.needs_views else {}
    return {**RANKS, CODES: False, **_losses(*WEIGHTS), **contrast, **INFOMAX, **TRANSFER}


SWITCHES = (
    Switch("in-domain view", {VIEW: False}, _on_the_view),
    Switch("domain paths", RANKS),
    Switch("projectors", {"model.views.projectors": False}, within=VIEW),
    Switch("shared and specific codes", {CODES: False}, lambda _: _losses(*WEIGHTS)),
    Switch("variational codes", {"model.disentangle.variational": False}, lambda _: _losses("kl"), within=CODES),
    Switch("sufficiency", _losses("shared_alone", "specific_alone", "specific_domain"), within=CODES),
    Switch("states of elsewhere", _losses("across"), lambda _: {"model.disentangle.shared_learns": "all"}, CODES),
    Switch("standardised code", {"model.disentangle.standardise": False}, within=CODES),
    Switch("erasure", {"model.disentangle.erase": False}, within=CODES),
    Switch("alignment", _losses("info_nce", "mmd", "adversary"), within=CODES),
    Switch("independence", _losses("orthogonal", "hsic", "club"), within=CODES),
    Switch("loop", {"model.loop.most": 1}),
    Switch("local banks", {"model.banks.local": 0}),
    Switch("shared bank", {"model.banks.shared": 0}),
    Switch("written memory", {"model.written.mode": "none"}),
    Switch("mixers", {"model.mixers.kinds": ()}),
    Switch("experts", {"model.experts.each": 0}),
    Switch("contrast within domains", {INTRA: 0.0}),
    Switch("contrast between domains", {INTER: 0.0}),
    Switch("infomax", INFOMAX),
    Switch("transfer weights", TRANSFER),
    Switch("contrast of categories", {"objectives.taxonomy.weight": 0.0}),
    Switch("denoising", {"loss.denoise.trim": 0.0, "loss.denoise.robust": "none"}),
)


def switches_on(config: RunConfig) -> list[Switch]:
    """The parts that a run of `mdrec` has.

    Raises:
        ConfigError: a run of another model.
    """
    if not isinstance(config.model, MdrecConfig):
        raise ConfigError(
            "this model has no parts to turn off",
            column="model",
            found=type(config.model).__name__,
            expected=MdrecConfig.__name__,
        )
    return [switch for switch in SWITCHES if switch.is_on(config)]


def without(config: RunConfig, *switches: Switch) -> RunConfig:
    """The run with some parts turned off."""
    values = {}
    for switch in switches:
        values |= switch.off | switch.also(config)
    return with_fields(config, values)


def all_off(config: RunConfig) -> RunConfig:
    """The run with all parts turned off, which is one of `sasrec`."""
    bare = without(config, *switches_on(config))
    assert isinstance(bare.model, MdrecConfig)
    return replace(bare, model=bare.model.encoder)
