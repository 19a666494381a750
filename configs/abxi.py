"""Amazon Beauty and Electronics, two domains in one mixed sequence a user, as ABXI (WWW 2025) prepared them: experts
of three widths, targets among the next three events, dates, and co-occurrence beside the model.

mdrec prepare abxi FOLDER --out data/abxi --tie file
mdrec train abxi --data data/abxi
"""

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.evaluate.cooccurrence import CooccurrenceConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.config import PrecisionConfig, TrainConfig


def config() -> RunConfig:
    return RunConfig(
        batching=BatchingConfig(rows=16, row_length=64, max_length=50, horizon=3),
        model=RecommenderConfig(
            dim=128,
            layers=1,
            heads=2,
            attention_window=50,
            date_days=60.0,
            embedding_dropout=0.5,
            residual_dropout=0.5,
            embedding_scale=11.0,
            experts=ExpertsConfig(per_width=1),
        ),
        loss=NextItemConfig(softmax_over="target_domain"),
        optim=OptimConfig(beta2=0.999, weight_decay=2.0, schedule=ScheduleConfig(kind="linear")),
        precision=PrecisionConfig(compute="bfloat16"),
        cooccurrence=CooccurrenceConfig(weight=0.5),
        train=TrainConfig(epochs=32, evaluate_every=4, patience=0, metric="macro/mrr", protocol="uniform999"),
    )


def smoke() -> RunConfig:
    return replace(config(), model={"dim": 16}, train={"epochs": 0.5})
