"""What a step counts, and which random numbers it draws."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.step import initial_params, seed_key

DROPPING = RecommenderConfig(dim=16, layers=1, attention_window=24, embedding_dropout=0.4, residual_dropout=0.4)


def steps(config: RunConfig, world: Path, number: int = 3) -> tuple[Setup, Any, list[dict[str, float]]]:
    setup = Setup.of(config, open_dataset(world))
    state, seen, batches = setup.initial_state(), [], setup.batches_from(0)
    for done in range(number):
        batch = next(batches)
        targets = float(np.asarray(batch.weight).sum())
        state, metrics = setup.train_step(state, batch)
        assert int(state.step) == done + 1
        seen.append({name: float(value) for name, value in metrics.items()})
        assert seen[-1]["targets"] == targets
    return setup, state, seen


@pytest.mark.parametrize(
    ("kind", "other"),
    [("softmax", {"train": {"accumulate": 2}}), ("sampled_softmax", {"hardware": MeshConfig(4)})],
    ids=["micro-batches", "devices"],
)
def test_what_is_dropped_hangs_on_the_rows_place_in_the_whole_batch(
    kind: Any, other: dict[str, Any], small_run: RunConfig, small_world: Path
) -> None:
    config = replace(small_run, model=DROPPING, loss=NextItemConfig(kind, negatives=16), hardware=MeshConfig(1))
    _, _, expected = steps(config, small_world)
    _, _, found = steps(replace(config, **other), small_world)
    for one, two in zip(expected, found, strict=True):
        assert {"loss", "targets", "gradient_norm"} <= one.keys()
        np.testing.assert_allclose([two[name] for name in one], list(one.values()), rtol=1e-4)


class Keys:
    """A model whose parameters are the key they are made from."""

    def init(self, key: jax.Array) -> Any:
        return key


def test_parameters_and_steps_draw_from_streams_of_their_own() -> None:
    keys = [initial_params(Keys(), seed) for seed in (0, 1)]  # pyright: ignore[reportArgumentType]
    keys += [seed_key(seed) for seed in (0, 1)]
    keys += [jax.random.fold_in(key, step) for key in keys[2:] for step in range(3)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
