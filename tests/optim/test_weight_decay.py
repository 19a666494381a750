"""Weight decay by a parameter's group, whatever its shape."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.models.api import ModelConfig
from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.types import ParameterFacts, Params
from tests.models.make import SASREC, VARIANTS, built

RATE, DECAY = 0.01, 2.0


@pytest.mark.parametrize("config", [SASREC, VARIANTS["mdrec, loop, memories, experts"]], ids=["sasrec", "mdrec"])
def test_without_gradients_matrices_and_embeddings_shrink_and_vectors_stand_still(config: ModelConfig) -> None:
    model, params = built(config)
    optim = OptimConfig(weight_decay=DECAY, dense=DenseConfig(learning_rate=RATE))
    slots = optimiser.init(optim, model.facts, params)
    nothing = jax.tree.map(jnp.zeros_like, params.dense)
    moved = params
    for step in range(3):
        moved, slots = optimiser.apply(optim, model.facts, moved, slots, nothing, {}, jnp.int32(step), 10)
        moved = replace(moved, tables=params.tables)

    def check(fact, before, after) -> None:
        factor = (1 - RATE * DECAY) ** 3 if fact.group in ("matrix", "embedding") else 1.0
        np.testing.assert_allclose(after, before * factor, rtol=1e-6)

    jax.tree.map(check, model.facts.dense, params.dense, moved.dense)
    spared = [fact for fact in jax.tree.leaves(model.facts.dense) if fact.group == "vector"]
    assert any(len(fact.shape) > 1 for fact in spared), "a stack of blocks makes two dimensions of one"


@pytest.mark.parametrize(("group", "shrinks"), [("matrix", True), ("embedding", True), ("vector", False)])
def test_a_group_is_decayed_whatever_its_name_and_shape(group: Any, shrinks: bool) -> None:
    facts = Params({"one": ParameterFacts(("embed",), "shared", group, (4,))}, {}, {})
    params = Params({"one": jnp.ones(4)}, {}, {})
    optim = OptimConfig(weight_decay=DECAY, dense=DenseConfig(learning_rate=RATE))
    slots, nothing = optimiser.init(optim, facts, params), {"one": jnp.zeros(4)}
    moved, _ = optimiser.apply(optim, facts, params, slots, nothing, {}, jnp.int32(0), 10)
    np.testing.assert_allclose(moved.dense["one"], 1 - RATE * DECAY if shrinks else 1.0, rtol=1e-6)


@pytest.mark.parametrize("group", ["matrix", "vector"])
def test_the_schedule_multiplies_the_rate_of_what_is_no_table(group: Any) -> None:
    """Adam's first update is the sign of the gradient, so a step's length is the rate."""
    facts = Params({"one": ParameterFacts(("embed",), "shared", group, (4,))}, {}, {})
    params = Params({"one": jnp.ones(4)}, {}, {})
    optim = OptimConfig(dense=DenseConfig(learning_rate=RATE), schedule=ScheduleConfig(warmup_steps=4))
    for step, factor in ((0, 0.25), (2, 0.75), (9, 1.0)):
        slots, gradient = optimiser.init(optim, facts, params), {"one": jnp.asarray([3.0, -2.0, 0.5, 1.0])}
        moved, _ = optimiser.apply(optim, facts, params, slots, gradient, {}, jnp.int32(step), 10)
        np.testing.assert_allclose(moved.dense["one"], 1 - RATE * factor * jnp.sign(gradient["one"]), rtol=1e-5)
