"""MovieLens-1M, leave-one-out, long histories (up to 2,314 events), full softmax over 3,706 items.

mdrec prepare ml1m FOLDER --out data/ml1m
mdrec train ml1m --data data/ml1m
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.config import TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=8, row_length=400, max_length=200, window="all"),
        model=RecommenderConfig(
            dim=128,
            layers=2,
            heads=2,
            attention_window=200,
            embedding_dropout=0.3,
            residual_dropout=0.3,
            embedding_scale=11.3,
            temperature=0.07,
        ),
        optim=OptimConfig(
            dense=DenseConfig(learning_rate=2e-3),
            table=TableConfig(learning_rate=2e-3),
            schedule=ScheduleConfig(kind="linear", warmup_steps=100),
        ),
        train=TrainConfig(epochs=40, evaluate_every=2, patience=0),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16, "layers": 1}, train={"epochs": 0.05, "evaluate_every": 0.05})
