"""A small prepared dataset and a run that trains on it in seconds."""

from pathlib import Path

import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import LoggingConfig, TrainConfig


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "small"
    write_world(SyntheticConfig(users=150, items=260, domains=2, seed=3), folder)
    return folder


@pytest.fixture
def small_run() -> RunConfig:
    return replace(
        RunConfig(),
        batching=BatchingConfig(rows=8, row_length=32, max_length=24),
        model=RecommenderConfig(dim=16, layers=1, attention_window=24),
        train=TrainConfig(epochs=2.0, evaluate_every=0.5, patience=0),
        logging=LoggingConfig(every=5, checkpoint_every=7, tensorboard=False),
        hardware=MeshConfig(1),
    )
