"""A small prepared dataset, and a run on it of a few steps."""

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
    folder = tmp_path_factory.mktemp("experiments") / "world"
    write_world(SyntheticConfig(users=150, items=260, domains=2, seed=3), folder)
    return folder


@pytest.fixture
def short_run() -> RunConfig:
    return replace(
        RunConfig(),
        batching=BatchingConfig(rows=8, row_length=32, max_length=24),
        model=RecommenderConfig(dim=8, layers=1, attention_window=24, embedding_dropout=0.0, residual_dropout=0.0),
        train=TrainConfig(epochs=0.0, steps=4, patience=0, metric="macro/ndcg@10"),
        logging=LoggingConfig(every=2, tensorboard=False),
        hardware=MeshConfig(1),
    )
