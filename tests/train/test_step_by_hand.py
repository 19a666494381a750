"""One step of a model small enough to be worked out by hand: losses, metrics, gradients, and what each pass gets."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.models.api import Model
from mdrec_jax.objectives.combine import Objectives, ObjectivesConfig
from mdrec_jax.objectives.forward import Forward
from mdrec_jax.objectives.next_item import NextItemConfig, make_objective
from mdrec_jax.optim.optimiser import OptimConfig, TableConfig
from mdrec_jax.parallel.mesh import MeshConfig, by_row, make_mesh
from mdrec_jax.train.state import TrainState, init_state
from mdrec_jax.train.step import StepConfig, initial_params, make_train_step, seed_key
from mdrec_jax.types import Batch
from tests.models.make import SPEC, pack
from tests.models.plain import Plain, V, states
from tests.objectives.spread import make_batch

RATE = 0.5
ITEMS = np.arange(2, SPEC.num_items)
ONE = pack([[[5, 7]]])
"""Two events and one target; the second row is empty."""
KEY = seed_key(3)


HALF, LENGTH = 0.25, 0.5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Further(Objectives):
    """The next item from half the state, and the states' lengths; and each token's loss is shown."""

    def losses(self, seen: Forward) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, shown = super().losses(seen)
        codes = seen.encoded.codes
        assert codes is not None
        parts = {"half": seen.score(codes.shared, seen.weight)}
        parts["length"] = lengths(seen.encoded.h, seen.batch) / seen.targets
        each = {"each": jnp.sum(seen.each(codes.specific))}
        vectors = {} if self.next_item.needs_whole_table else {"target": jnp.sum(seen.vectors("target"))}
        return total + HALF * parts["half"] + LENGTH * parts["length"], shown | parts | each | vectors


def lengths(h: jax.Array, batch: Batch) -> jax.Array:
    return jnp.sum(jnp.square(h).mean(-1) * (jnp.asarray(batch.weight) > 0))


def objectives(kind: Any = "softmax") -> Objectives:
    next_item = make_objective(NextItemConfig(kind, negatives=8), [ITEMS], np.ones(SPEC.num_items), V)
    return Further(next_item, None, ObjectivesConfig())


def step(
    batch: Batch, run: Objectives | None = None, *, devices: int = 1, micro_batches: int = 1, dtype: Any = jnp.float32
) -> tuple[TrainState, TrainState, dict[str, float]]:
    """The state that was given (its arrays are gone), the one that came out, and the metrics."""
    mesh, model = make_mesh(MeshConfig(devices)), cast(Model, Plain())
    optim = OptimConfig(table=TableConfig("sgd", RATE))
    before = init_state(initial_params(model, 0), model.facts, optim, mesh)
    do = make_train_step(model, optim, mesh, StepConfig(dtype, 10, micro_batches))
    after, metrics = do(before, jax.device_put(batch, by_row(mesh)), run or objectives(), KEY)
    return before, after, {name: float(value) for name, value in metrics.items()}


def cross_entropy(h: jax.Array, vectors: jax.Array, batch: Batch) -> jax.Array:
    """Of each token with a target among all items, [R, T]; 0 where there is none."""
    scores = h @ vectors[ITEMS].T
    own = jnp.take_along_axis(scores, jnp.maximum(jnp.asarray(batch.target) - ITEMS[0], 0)[..., None], -1)[..., 0]
    return jnp.where(jnp.asarray(batch.target) > 0, jax.nn.logsumexp(scores, axis=-1) - own, 0.0)


def expected(batch: Batch) -> tuple[dict[str, float], Any]:
    """The losses by name, and the gradient of their sum."""
    params, targets = initial_params(cast(Model, Plain()), 0), max(1.0, float(batch.weight.sum()))

    def parts(scale: jax.Array, vectors: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        h = states(scale, vectors[batch.item], params.statistics["shift"])
        mean = lambda h: jnp.sum(cross_entropy(h, vectors, batch) * batch.weight) / targets  # noqa: E731
        found = {"loss": mean(h), "half": mean(h / 2), "length": lengths(h, batch) / targets}
        return found["loss"] + HALF * found["half"] + LENGTH * found["length"], found

    arguments = params.dense["scale"], params.tables["item"]
    gradients, found = jax.jit(jax.grad(parts, argnums=(0, 1), has_aux=True))(*arguments)
    return {name: float(value) for name, value in found.items()}, gradients


WEIGHTED = dataclasses.replace(
    make_batch(), weight=(make_batch().weight * np.linspace(0.25, 2.0, 8, dtype=np.float32)[:, None])
)


@pytest.mark.parametrize(
    ("batch", "devices", "micro_batches"),
    [(WEIGHTED, 1, 1), (WEIGHTED, 2, 2), (ONE, 1, 1)],
    ids=["whole", "micro-batches", "one"],
)
def test_a_step_is_the_gradient_of_the_sum_of_its_losses(batch: Batch, devices: int, micro_batches: int) -> None:
    before, after, metrics = step(batch, devices=devices, micro_batches=micro_batches)
    losses, (of_scale, of_table) = expected(batch)
    for name, value in losses.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    assert metrics["targets"] == batch.weight.sum()
    assert metrics["gradient_norm"] == pytest.approx(float(jnp.linalg.norm(of_scale)), rel=1e-5)
    params = initial_params(cast(Model, Plain()), 0)
    table, scale = params.tables["item"] - RATE * of_table, params.dense["scale"] - 1e-3 * jnp.sign(of_scale)
    np.testing.assert_allclose(after.params.tables["item"], table, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.params.dense["scale"], scale, rtol=1e-4)
    np.testing.assert_array_equal(after.params.statistics["shift"], params.statistics["shift"])
    assert int(after.step) == 1
    assert before.params.tables["item"].is_deleted()


def test_a_step_without_a_target_has_no_loss() -> None:
    _, after, metrics = step(pack([[[]]]))
    assert {metrics[name] for name in ("loss", "half", "length", "targets", "gradient_norm", "row/loops")} == {0.0}
    assert np.isfinite(after.params.tables["item"]).all()


@pytest.mark.parametrize(("devices", "micro_batches"), [(1, 4), (2, 2)])
def test_what_a_model_tells_is_shown_as_the_mean_over_events(devices: int, micro_batches: int) -> None:
    batch = make_batch()
    _, _, metrics = step(batch, devices=devices, micro_batches=micro_batches)
    real = batch.segment > 0
    assert metrics["row/loops"] == pytest.approx(np.nonzero(real)[0].mean())
    assert metrics["rows_at_once/loops"] == pytest.approx(8 / devices / micro_batches)
    assert metrics["bits/loops"] == pytest.approx(32)


def test_a_model_is_told_the_type_to_work_in() -> None:
    assert step(ONE, dtype=jnp.bfloat16)[2]["bits/loops"] == 16


@pytest.mark.parametrize("kind", ["softmax", "sampled_softmax"])
def test_objectives_may_score_other_states(kind: Any) -> None:
    batch = WEIGHTED
    metrics, spread = (step(batch, objectives(kind), devices=devices)[2] for devices in (1, 4))
    assert (metrics.pop("rows_at_once/loops"), spread.pop("rows_at_once/loops")) == (8, 2)
    assert spread == pytest.approx(metrics, rel=1e-4)
    params = initial_params(cast(Model, Plain()), 0)
    table, shift = params.tables["item"], params.statistics["shift"]
    if kind == "softmax":
        h = states(params.dense["scale"], table[batch.item], shift)
        assert metrics["each"] == pytest.approx(float(cross_entropy(h * 2, table, batch).sum()), rel=1e-4)
    else:
        assert metrics["target"] == pytest.approx(float(table[batch.target].sum()), rel=1e-4)


def test_a_steps_random_numbers_are_those_of_the_seed_and_the_step() -> None:
    """The streams are numbered: another number would give every seed other results than it had."""
    _, masks = jax.random.split(jax.random.fold_in(KEY, 0))
    assert step(ONE)[2]["mask/loops"] == pytest.approx(float(jax.random.uniform(masks)))


def test_a_seeds_streams_are_numbered() -> None:
    key = jax.random.key(7)
    assert (jax.random.key_data(seed_key(7)) == jax.random.key_data(jax.random.fold_in(key, 1))).all()
    first = Plain().init(jax.random.fold_in(key, 0))
    np.testing.assert_array_equal(initial_params(cast(Model, Plain()), 7).tables["item"], first.tables["item"])


def test_a_step_works_on_its_rows_in_one_part_unless_told_otherwise() -> None:
    assert StepConfig(jnp.float32, 10) == StepConfig(jnp.float32, 10, 1)
