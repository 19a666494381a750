"""Amazon Beauty 5-core, one domain, full softmax over 12,101 items.

mdrec prepare s3rec FOLDER --out data/beauty
mdrec train beauty --data data/beauty
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.evaluate.cooccurrence import CooccurrenceConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.config import PrecisionConfig, TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=16, row_length=64, max_length=50),
        model=RecommenderConfig(
            dim=128,
            layers=1,
            heads=2,
            attention_window=50,
            embedding_dropout=0.5,
            residual_dropout=0.3,
            embedding_scale=16.0,
            temperature=0.07,
        ),
        optim=OptimConfig(schedule=ScheduleConfig(kind="linear")),
        train=TrainConfig(epochs=24, evaluate_every=4, patience=0),
        precision=PrecisionConfig(compute="bfloat16"),
        cooccurrence=CooccurrenceConfig(weight=1.5),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16, "layers": 1}, train={"epochs": 0.2, "evaluate_every": 0.1})
