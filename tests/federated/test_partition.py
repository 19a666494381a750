"""What is shared leaves a silo, what is private never does: two silos train in turn on the ordinary step."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.config import RunConfig
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import InputError
from mdrec_jax.federated.partition import average, shared_part, with_shared_part
from mdrec_jax.models.api import make_model, parameter_facts
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import TrainConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import TrainState
from tests.models.make import PARTS, SPEC

ENCODER = RecommenderConfig(dim=16, layers=1, heads=2, attention_window=24, domain_embedding=True, event_embedding=True)
EVERYTHING = (
    PARTS["codes"] | PARTS["loop"] | PARTS["learned memory"] | PARTS["user memory"] | PARTS["mixers"] | PARTS["experts"]
)
RUN = RunConfig(
    batching=BatchingConfig(rows=8, row_length=32, max_length=24),
    model=replace(ENCODER, **PARTS["views"]),
    train=TrainConfig(epochs=8.0),
    hardware=MeshConfig(1),
)


class Silo:
    def __init__(self, data: Path) -> None:
        self.setup = Setup.of(RUN, open_dataset(data))
        self.facts = parameter_facts(self.setup.model)
        self.state = self.setup.initial_state()
        self.losses: list[float] = []

    def train(self, steps: int) -> None:
        batches = self.setup.batches_from(int(self.state.step))
        for _ in range(steps):
            self.state, metrics = self.setup.train_step(self.state, next(batches))
            self.losses.append(float(metrics["loss"]))

    def shared(self) -> dict[str, jax.Array]:
        return shared_part(self.state.params, self.facts)

    def take(self, shared: dict[str, jax.Array]) -> None:
        params = with_shared_part(self.state.params, self.facts, jax.tree.map(jnp.copy, shared))
        self.state = TrainState(self.state.step, params, self.state.slots)


def test_two_silos_train_in_turn_with_the_shared_part_averaged_each_round(silos: tuple[Path, Path]) -> None:
    both = [Silo(data) for data in silos]
    weights = [silo.setup.dataset.spec.num_items for silo in both]
    for _ in range(3):
        for silo in both:
            silo.train(8)
        trained = [jax.tree.map(np.asarray, silo.shared()) for silo in both]
        mean = average([silo.shared() for silo in both], weights)
        for name, value in mean.items():
            expected = (weights[0] * trained[0][name] + weights[1] * trained[1][name]) / sum(weights)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
        private = [np.asarray(silo.state.params.tables["item"]) for silo in both]
        for silo in both:
            silo.take(mean)
        for name, value in mean.items():
            np.testing.assert_array_equal(both[0].shared()[name], value)
            np.testing.assert_array_equal(both[1].shared()[name], value)
        for silo, table in zip(both, private, strict=True):
            np.testing.assert_array_equal(silo.state.params.tables["item"], table)
    for silo in both:
        assert np.mean(silo.losses[-4:]) < np.mean(silo.losses[:4])


def test_nothing_shared_has_a_shape_that_depends_on_a_silos_data(silos: tuple[Path, Path]) -> None:
    shapes = []
    for data in silos:
        facts = parameter_facts(make_model(replace(ENCODER, **EVERYTHING), open_dataset(data).spec))
        leaves = jax.tree.leaves(facts, is_leaf=lambda leaf: hasattr(leaf, "scope"))
        shapes.append([leaf.shape for leaf in leaves if leaf.scope == "shared"])
        assert any(leaf.scope == "private" for leaf in leaves)
    assert shapes[0] == shapes[1]


def test_statistics_never_leave_and_stay_as_they_are() -> None:
    model = make_model(replace(ENCODER, **PARTS["whitened codes"]), SPEC)
    params, facts = model.init(jax.random.key(0)), parameter_facts(model)
    shared = shared_part(params, facts)
    assert not any("whitening" in name or "statistics" in name for name in shared)
    taken = with_shared_part(params, facts, jax.tree.map(jnp.zeros_like, shared))
    assert jax.tree.leaves(taken.statistics)
    for one, other in zip(*map(jax.tree.leaves, (taken.statistics, params.statistics)), strict=True):
        assert one is other


def test_a_shared_part_of_another_model_is_refused(silos: tuple[Path, Path]) -> None:
    silo = Silo(silos[0])
    shared = silo.shared()
    name = next(name for name in shared if "fusion" in name)
    with pytest.raises(InputError, match="not this model's shared part"):
        silo.take({n: v for n, v in shared.items() if n != name})
    with pytest.raises(InputError, match="not this model's shared part"):
        silo.take(shared | {name: jnp.zeros((1,))})
    with pytest.raises(InputError, match="not this model's shared part"):
        silo.take(shared | {"tables/item": silo.state.params.tables["item"]})
