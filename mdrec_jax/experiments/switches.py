"""The parts of `mdrec` that an ablation turns off, one line each."""

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
        within: the field of another part that this one is nothing without.
    """

    name: str
    off: dict[str, Any]
    within: str | None = None

    def is_on(self, config: RunConfig) -> bool:
        there = self.within is None or value_of(config, self.within)
        return bool(there) and any(value_of(config, name) != value for name, value in self.off.items())


RANKS = {"model.views.domain_rank": 0, "model.views.invariant_rank": 0}
CODES = {"model.disentangle.codes": False} | {f"model.disentangle.{name}": 0.0 for name in WEIGHTS}
SWITCHES = (
    Switch("in-domain view", {"model.views.in_domain": False, **RANKS, **CODES}),
    Switch("domain paths", RANKS),
    Switch("projectors", {"model.views.projectors": False}, within="model.views.in_domain"),
    Switch("shared and specific codes", CODES, within="model.disentangle.codes"),
    Switch("loop", {"model.loop.most": 1}),
    Switch("local banks", {"model.banks.local": 0}),
    Switch("shared bank", {"model.banks.shared": 0}),
    Switch("written memory", {"model.written.slots": 0}),
    Switch("mixers", {"model.mixers.kinds": ()}),
    Switch("experts", {"model.experts.each": 0}),
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
    return with_fields(config, {name: value for switch in switches for name, value in switch.off.items()})


def all_off(config: RunConfig) -> RunConfig:
    """The run with all parts turned off, which is one of `sasrec`."""
    bare = without(config, *switches_on(config))
    assert isinstance(bare.model, MdrecConfig)
    return replace(bare, model=bare.model.encoder)
