"""One step gives the same numbers on one device and on eight, whole and in micro-batches, and compiles once."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import TrainState

LOSSES = {
    "softmax": NextItemConfig(),
    "softmax of the domain": NextItemConfig(softmax_over="target_domain"),
    "sampled": NextItemConfig("sampled_softmax", negatives=32),
    "sampled in the domain": NextItemConfig("sampled_softmax", "target_domain", negatives=16, sampler="popularity"),
    "sampled in the batch": NextItemConfig("sampled_softmax", negatives=16, sampler="in_batch"),
    "bce": NextItemConfig("bce", negatives=4),
    "gbce": NextItemConfig("gbce", negatives=32),
}


def losses(config: RunConfig, world: Path, steps: int) -> tuple[list[float], TrainState]:
    setup = Setup.of(config, open_dataset(world))
    state, seen = setup.initial_state(), []
    batches = setup.batches_from(0)
    for _ in range(steps):
        state, metrics = setup.train_step(state, next(batches))
        seen.append(float(metrics["loss"]))
    return seen, state


IN_BFLOAT16 = {"softmax", "sampled in the domain", "gbce"}
"""One of each way to score in the default suite; the others are variants of them."""

SPREADS = {
    "two devices": {"hardware": MeshConfig(2)},
    "eight devices": {"hardware": MeshConfig(8)},
    "micro-batches": {"train": {"accumulate": 4}},
}
CASES = [(loss, "eight devices") for loss in LOSSES] + [
    (loss, spread) for loss in ("softmax", "sampled in the domain") for spread in ("two devices", "micro-batches")
]


@pytest.mark.parametrize(("loss", "spread"), CASES)
def test_losses_do_not_depend_on_how_the_rows_are_spread(
    loss: str, spread: str, small_run: RunConfig, small_world: Path
) -> None:
    config = replace(small_run, loss=LOSSES[loss], hardware=MeshConfig(1))
    expected, _ = losses(config, small_world, 20)
    assert np.isfinite(expected).all()
    assert len(set(expected)) == len(expected)
    np.testing.assert_allclose(losses(replace(config, **SPREADS[spread]), small_world, 20)[0], expected, rtol=1e-5)


def test_rows_that_the_data_axis_does_not_divide_are_filled_up(small_run: RunConfig, small_world: Path) -> None:
    config = replace(small_run, batching=dataclasses.replace(small_run.batching, rows=6), hardware=MeshConfig(1))
    expected, _ = losses(config, small_world, 5)
    np.testing.assert_allclose(losses(replace(config, hardware=MeshConfig(4)), small_world, 5)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sampled"])
def test_training_lowers_the_loss_and_compiles_the_step_once(
    loss: str, small_run: RunConfig, small_world: Path
) -> None:
    setup = Setup.of(replace(small_run, loss=LOSSES[loss], hardware=MeshConfig(1)), open_dataset(small_world))
    state, seen = setup.initial_state(), []
    batches = setup.batches_from(0)
    for _ in range(40):
        state, metrics = setup.train_step(state, next(batches))
        seen.append(float(metrics["loss"]))
    assert np.mean(seen[-5:]) < np.mean(seen[:5])
    assert setup.step._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_padding_rows_of_the_table_never_move(small_run: RunConfig, small_world: Path) -> None:
    for loss in ("softmax", "sampled"):
        config = replace(small_run, loss=LOSSES[loss], hardware=MeshConfig(1))
        setup = Setup.of(config, open_dataset(small_world))
        before = np.asarray(setup.initial_state().params.tables["item"])
        _, state = losses(config, small_world, 5)
        after = np.asarray(state.params.tables["item"])
        real = setup.dataset.spec.num_items
        np.testing.assert_array_equal(after[real:], before[real:])
        assert (after[2:real] != before[2:real]).any()


def test_parameters_are_the_seeds(small_run: RunConfig, small_world: Path) -> None:
    _, one = losses(small_run, small_world, 3)
    _, again = losses(small_run, small_world, 3)
    _, other = losses(replace(small_run, seed=1), small_world, 3)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, again)
    assert all(jax.tree.leaves(same))
    assert (np.asarray(one.params.tables["item"]) != np.asarray(other.params.tables["item"])).any()


def test_the_rate_falls_over_the_whole_run(small_run: RunConfig, small_world: Path) -> None:
    falling = replace(small_run, optim=OptimConfig(schedule=ScheduleConfig("linear")))
    lengths = ({"steps": steps, "epochs": 0.0} for steps in (4, 400))
    short, long = (losses(replace(falling, train=length), small_world, 4)[0] for length in lengths)
    assert short[0] == long[0]
    assert short[-1] > long[-1]


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=[] if loss in IN_BFLOAT16 else pytest.mark.slow) for loss in LOSSES]
)
def test_every_loss_steps_in_bfloat16(loss: str, small_run: RunConfig, small_world: Path) -> None:
    config = replace(small_run, loss=LOSSES[loss], hardware=MeshConfig(1))
    expected, _ = losses(config, small_world, 3)
    found, _ = losses(replace(config, precision={"compute": "bfloat16"}), small_world, 3)
    assert found != expected
    np.testing.assert_allclose(found, expected, rtol=0.02)
