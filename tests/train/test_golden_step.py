"""A few steps of the optimiser against AdamW written out in numpy, over gradients taken apart from the step.

The model has every class of array: dense matrices, vectors, embeddings, all of these stacked, a table, and statistics.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.config import RunConfig
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.models.api import encode_batch, parameter_facts
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.parallel.mesh import MeshConfig, by_row
from mdrec_jax.train.config import TrainConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.types import Batch, Params

STEPS = 4
# A large epsilon and a clip that differs from step to step: without them Adam forgets the gradients' scale.
BETA1, EPSILON = 0.8, 1e-3
OPTIM = OptimConfig(
    beta2=0.95,
    weight_decay=0.7,
    dense=DenseConfig(learning_rate=0.02, clip_norm=0.25),
    table=TableConfig(learning_rate=0.03),
    schedule=ScheduleConfig(warmup_steps=3),
)
FACTORS = [1 / 3, 2 / 3, 1.0, 1.0]
RUN = RunConfig(
    batching=BatchingConfig(rows=8, row_length=32, max_length=24),
    model=RecommenderConfig(
            dim=16, layers=2, heads=2, attention_window=24, domain_embedding=True, init_scale=0.3,
            embedding_dropout=0.0,
            residual_dropout=0.0,
        views=ViewsConfig(in_domain=True, path_rank=2),
        disentangle=DisentangleConfig(codes=True, shared_rank=3, domain_whitening=True),
    ),
    optim=OPTIM,
    train=TrainConfig(epochs=1.0),
    hardware=MeshConfig(1),
)  # fmt: skip

# What came out once; the test works the same out anew, these catch a change of model or data.
LOSSES = [7.9214, 7.67588, 7.2832, 6.66402]
GRADIENT_NORMS = [18.5814, 3.82052, 2.44747, 1.35582]
UPDATE_NORMS = {"matrix": 1.52049, "vector": 0.491087, "embedding": 0.403921, "table": 4.22585}
PARAMETER_NORMS = {"matrix": 18.0963, "vector": 9.69126, "embedding": 5.82561, "table": 24.6939}


@dataclass
class Adam:
    """One array's AdamW in float64. A table's row has a clock of its own: the steps that reached it."""

    value: np.ndarray
    decay: float
    rate: float
    betas: tuple[float, float]
    epsilon: float
    by_row: bool = False
    mean: Any = 0.0
    square: Any = 0.0
    count: Any = 0.0

    def step(self, gradient: np.ndarray, factor: float) -> None:
        reached = (gradient != 0).any(-1, keepdims=True) if self.by_row else np.True_
        b1, b2 = self.betas
        self.count = self.count + reached
        self.mean = np.where(reached, b1 * self.mean + (1 - b1) * gradient, self.mean)
        self.square = np.where(reached, b2 * self.square + (1 - b2) * gradient**2, self.square)
        count = np.maximum(self.count, 1)
        change = (self.mean / (1 - b1**count)) / (np.sqrt(self.square / (1 - b2**count)) + self.epsilon)
        self.value = np.where(reached, self.value - factor * self.rate * (change + self.decay * self.value), self.value)


def named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def wide(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float64) for name, leaf in named(tree).items()}


def norm_of(values: dict[str, np.ndarray], groups: dict[str, str]) -> dict[str, float]:
    """Over all arrays of a group."""

    def square(group: str) -> float:
        return sum((value**2).sum() for name, value in values.items() if groups[name] == group)

    return {group: float(np.sqrt(square(group))) for group in UPDATE_NORMS}


def softmax(setup: Setup) -> Any:
    """Compiled: (parameters, batch) -> the mean over targets of -log softmax, and its gradient."""
    items = np.arange(2, setup.dataset.spec.num_items)

    def loss(params: Params, batch: Batch) -> jax.Array:
        h = encode_batch(setup.model, params, batch).h
        logits = jnp.einsum("rtd,vd->rtv", h, params.tables["item"][items])
        target = jnp.maximum(batch.target - 2, 0)
        missed = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
        return (missed * batch.weight).sum() / batch.weight.sum()

    return jax.jit(jax.value_and_grad(loss))


def test_steps_are_adamw_on_every_class_of_array(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimiser, "BETA1", BETA1)
    monkeypatch.setattr(optimiser, "EPSILON", EPSILON)
    setup = Setup.of(RUN, open_dataset(small_world))
    facts = named(parameter_facts(setup.model))
    state, differentiate = setup.initial_state(), softmax(setup)
    # Statistics that are no identity, so that a step that touched them would be seen.
    moved = jax.tree.map(lambda x: x * 1.25 + 0.125, state.params.statistics)
    state = setup.initial_state(replace(state.params, statistics=moved))
    start = wide(state.params)
    groups = {name: facts[name].group for name in start}
    stacked = {groups[name] for name in start if facts[name].logical_axes[0] == "layers"}
    assert {"matrix", "vector"} <= stacked
    assert set(groups.values()) == {"matrix", "vector", "embedding", "table", "statistic"}

    expected = {}
    for name, group in groups.items():
        rate = OPTIM.table.learning_rate if group == "table" else OPTIM.dense.learning_rate
        decay, betas = 0.0 if group == "vector" else OPTIM.weight_decay, (BETA1, OPTIM.beta2)
        expected[name] = Adam(start[name], decay, rate, betas, EPSILON, by_row=group == "table")
    losses, norms, batches = [], [], setup.batches_from(0)
    for number in range(STEPS):
        batch = jax.device_get(next(batches))
        loss, gradient = differentiate(jax.device_get(state.params), batch)
        gradient = {name: value for name, value in wide(gradient).items() if groups[name] != "statistic"}
        dense = [value for name, value in gradient.items() if groups[name] != "table"]
        norm = np.sqrt(sum((value**2).sum() for value in dense))
        for name, value in gradient.items():
            clipped = value if groups[name] == "table" else value * min(1.0, OPTIM.dense.clip_norm / norm)
            expected[name].step(clipped, FACTORS[number])
        state, metrics = setup.train_step(state, jax.device_put(batch, by_row(setup.mesh)))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["gradient_norm"]))
        assert losses[-1] == pytest.approx(float(loss), rel=1e-5)
        assert norms[-1] == pytest.approx(norm, rel=1e-5)
    found = wide(state.params)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name].value, rtol=2e-5, atol=2e-6, err_msg=name)
        if groups[name] == "statistic":
            np.testing.assert_array_equal(value, start[name])
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert norms == pytest.approx(GRADIENT_NORMS, rel=1e-3)
    assert norm_of({name: value - start[name] for name, value in found.items()}, groups) == pytest.approx(
        UPDATE_NORMS, rel=1e-3
    )
    assert norm_of(found, groups) == pytest.approx(PARAMETER_NORMS, rel=1e-4)
