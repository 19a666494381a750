"""Objectives beside the next item, in the training step: the same on any number of devices, and refused where they
cannot be."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.objectives.combine import ObjectivesConfig
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.setup import Setup

ENCODER = RecommenderConfig(dim=16, layers=1, attention_window=24)
VIEWS = replace(ENCODER, views=ViewsConfig(in_domain=True, path_rank=2))
CASES = {
    "views": {
        "model": VIEWS,
        "objectives": ObjectivesConfig(ContrastiveConfig(intra=0.2, inter=0.1), transfer=TransferConfig(weight=0.5)),
    },
    "sampled, taxonomy": {
        "loss": NextItemConfig("sampled_softmax", negatives=32),
        "objectives": ObjectivesConfig(taxonomy=TaxonomyConfig(weight=0.3)),
    },
    "robust, noise": {
        "model": VIEWS,
        "objectives": ObjectivesConfig(
            ContrastiveConfig(intra=0.2, form="robust"), taxonomy=TaxonomyConfig(weight=0.3)
        ),
        "loss": NextItemConfig(noise=0.3),
    },
}


def metrics_of(config: RunConfig, world: Path, steps: int) -> list[dict[str, float]]:
    setup = Setup.of(config, open_dataset(world))
    state, seen, batches = setup.initial_state(), [], setup.batches_from(0)
    for _ in range(steps):
        state, metrics = setup.train_step(state, next(batches))
        seen.append({name: float(value) for name, value in jax.device_get(metrics).items()})
    return seen


@pytest.mark.parametrize("case", CASES)
def test_metrics_do_not_depend_on_how_the_rows_are_spread(case: str, small_run: RunConfig, small_world: Path) -> None:
    config = replace(small_run, **CASES[case], batching={"rows": 5}, hardware=MeshConfig(1))
    expected = metrics_of(config, small_world, 4)
    found = metrics_of(replace(config, hardware=MeshConfig(2)), small_world, 4)
    names = set(expected[0]) - {"loss", "targets", "gradient_norm"}
    objectives = config.objectives
    weights = {
        "contrastive_intra": objectives.contrastive.intra,
        "contrastive_inter": objectives.contrastive.inter,
        "taxonomy": objectives.taxonomy.weight,
        **dict.fromkeys(("single_domain", "gain_0", "gain_1"), objectives.transfer.weight),
    }
    assert names == {name for name, weight in weights.items() if weight}
    # The two views are scored each for itself: what a domain gains is no constant.
    gains = [abs(value) for name, value in expected[-1].items() if name.startswith("gain_")]
    assert all(gain > 1e-4 for gain in gains)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=2e-5, atol=1e-5)


def test_an_objective_moves_what_is_learned_and_its_own_loss_falls(small_run: RunConfig, small_world: Path) -> None:
    strong = ObjectivesConfig(ContrastiveConfig(intra=10.0))
    off = replace(small_run, model=VIEWS, hardware=MeshConfig(1))
    plain, moved = (metrics_of(c, small_world, 30) for c in (off, replace(off, objectives=strong)))
    assert "contrastive_intra" not in plain[0]
    assert plain[0]["loss"] == moved[0]["loss"]
    assert plain[-1]["loss"] != moved[-1]["loss"]
    course = [metrics["contrastive_intra"] for metrics in moved]
    assert np.mean(course[-5:]) < np.mean(course[:5]) - 0.3


def test_views_that_the_model_does_not_have_are_refused(small_run: RunConfig, small_world: Path) -> None:
    for contrast in (ContrastiveConfig(intra=0.1), ContrastiveConfig(inter=0.1)):
        with pytest.raises(ConfigError, match=r"views\.in_domain"):
            Setup.of(replace(small_run, objectives=ObjectivesConfig(contrast)), open_dataset(small_world))
    transfer = ObjectivesConfig(transfer=TransferConfig(weight=0.1))
    with pytest.raises(ConfigError, match=r"objectives\.transfer"):
        Setup.of(replace(small_run, objectives=transfer), open_dataset(small_world))


def test_micro_batches_are_refused(small_run: RunConfig, small_world: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.accumulate"):
        Setup.of(replace(small_run, **CASES["views"], train={"accumulate": 2}), open_dataset(small_world))
