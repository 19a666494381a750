"""A further mixer, objective or model is one file, and one line in its table."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.models.api import MODELS
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.layers.context import Context
from mdrec_jax.models.layers.linear import Linear
from mdrec_jax.models.layers.mixers import MIXERS
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.objectives.combine import ObjectivesConfig
from mdrec_jax.objectives.forward import Forward, Weighted
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.types import Batch, DatasetSpec


class Itself(nnx.Module):
    """A mixer that mixes nothing: a linear map of the token by itself."""

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, *, output_gain: float) -> None:
        del spec
        self.map = Linear(key, dim, dim, ("embed", "embed_out"), gain=output_gain)

    def __call__(self, x: jax.Array, segment: jax.Array, context: Context) -> jax.Array:
        del segment, context
        return self.map(x)


@dataclass(frozen=True)
class LengthConfig:
    """An objective: the mean square of the states at targets."""

    weight: float = 0.0

    def losses(self, seen: Forward) -> Weighted:
        return {"length": (self.weight, (jnp.square(seen.encoded.h).mean(-1) * seen.weight).sum())}


@dataclass(frozen=True)
class LastConfig:
    """A model: a linear map of the last item."""

    dim: int = 8
    init_scale: float = 0.5
    temperature: float = 0.0


class Last(nnx.Module):
    def __init__(self, key: jax.Array, config: LastConfig, spec: DatasetSpec) -> None:
        del spec
        self.map = Linear(key, config.dim, config.dim, ("embed", "embed_out"))

    def __call__(self, item: jax.Array, batch: Batch, seeds: Any) -> Encoded:
        del batch, seeds
        return Encoded(self.map(item))


def metrics_of(config: RunConfig, world: Path) -> dict[str, float]:
    setup = Setup.of(replace(config, hardware=MeshConfig(1)), open_dataset(world))
    _, metrics = setup.train_step(setup.initial_state(), next(setup.batches_from(0)))
    return {name: float(value) for name, value in metrics.items()}


def test_a_mixer(small_run: RunConfig, small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "itself", Itself)
    found = metrics_of(replace(small_run, model={"mixers": {"kinds": ("attention", "itself")}}), small_world)
    assert 0 < found["mixed/mixers/itself"] < 1


def test_an_objective(small_run: RunConfig, small_world: Path) -> None:
    line = [("length", LengthConfig, field(default_factory=LengthConfig))]
    extended = make_dataclass("ObjectivesConfig", line, bases=(ObjectivesConfig,), frozen=True)
    found = metrics_of(replace(small_run, objectives=extended(length=LengthConfig(0.5))), small_world)
    assert found["length"] > 0


def test_a_model(small_run: RunConfig, small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, LastConfig, lambda config, spec: TiedModel(config, spec, Last))
    assert metrics_of(replace(small_run, model=LastConfig()), small_world)["loss"] > 0
