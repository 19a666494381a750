"""A small SASRec on the synthetic world, a minute on a laptop.

mdrec train quickstart
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.config import TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=32, row_length=128, max_length=100),
        model=RecommenderConfig(dim=64, layers=2, heads=1, attention_window=100, embedding_scale=8.0, temperature=0.1),
        optim=OptimConfig(
            dense=DenseConfig(learning_rate=2e-3),
            table=TableConfig(learning_rate=2e-3),
            schedule=ScheduleConfig(kind="linear"),
        ),
        train=TrainConfig(epochs=24, evaluate_every=2, patience=3),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 32, "layers": 1}, train={"epochs": 1.0})
