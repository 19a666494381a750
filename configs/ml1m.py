"""MovieLens-1M, leave-one-out, long histories (up to 2,314 events), full softmax over 3,706 items.

mdrec prepare ml1m FOLDER --out data/ml1m
mdrec train ml1m --data data/ml1m
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching import BatchingConfig
from mdrec_jax.models.sasrec import SasrecConfig
from mdrec_jax.train.config import TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=16, row_length=256, max_length=200, window="all"),
        model=SasrecConfig(dim=128, layers=2, heads=2, max_length=200),
        train=TrainConfig(epochs=60, patience=8),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16, "layers": 1}, train={"epochs": 0.05, "evaluate_every": 0.05})
