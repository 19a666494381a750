"""Amazon Beauty 5-core, one domain, full softmax over 12,101 items.

mdrec prepare s3rec FOLDER --out data/beauty
mdrec train beauty --data data/beauty
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching import BatchingConfig
from mdrec_jax.models.sasrec import SasrecConfig
from mdrec_jax.train.config import TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=64, row_length=64, max_length=50),
        model=SasrecConfig(dim=64, layers=2, heads=1, max_length=50, embedding_dropout=0.3, residual_dropout=0.3),
        train=TrainConfig(epochs=30, patience=4),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16, "layers": 1}, train={"epochs": 0.2, "evaluate_every": 0.1})
