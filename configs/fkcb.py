"""Food, Kitchen, Clothing and Beauty as FedDCSR (SDM 2024) prepared them, trained centrally: parameters are shared,
sequences are not.

    mdrec prepare fkcb FOLDER --out data/fkcb
    mdrec train fkcb --data data/fkcb
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching import BatchingConfig
from mdrec_jax.models.sasrec import SasrecConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.train.config import TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=128, row_length=32, max_length=16),
        model=SasrecConfig(dim=128, layers=1, heads=2, max_length=16, embedding_dropout=0.5, residual_dropout=0.5),
        loss=NextItemConfig(softmax_over="target_domain"),
        train=TrainConfig(epochs=60, patience=6, metric="macro/mrr"),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16}, train={"epochs": 0.2, "evaluate_every": 0.1})
