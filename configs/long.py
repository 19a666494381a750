"""Long histories: attention sees a window of the last events, and a user memory keeps what lies behind it.

mdrec synthetic --long --out data/long
mdrec train long --data data/long
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.config import TrainConfig

WINDOW = 128
"""Events that attention sees."""


def config() -> RunConfig:
    model = RecommenderConfig(
        dim=64, layers=2, heads=1, attention_window=WINDOW, positions="rotary", embedding_scale=8.0, temperature=0.1,
        embedding_dropout=0.1, residual_dropout=0.1, user_memory=True,
    )  # fmt: skip
    return RunConfig(
        batching=BatchingConfig(rows=4, row_length=1024, max_length=1024),
        model=model,
        optim=OptimConfig(
            dense=DenseConfig(learning_rate=5e-3),
            table=TableConfig(learning_rate=5e-3),
            schedule=ScheduleConfig(kind="linear"),
        ),
        train=TrainConfig(epochs=10, evaluate_every=2, patience=0),
    )


def smoke() -> RunConfig:
    return replace(
        config(),
        batching={"row_length": 256, "max_length": 256},
        model={"dim": 16, "attention_window": 32},
        train={"epochs": 0.5},
    )
