"""RePlay: SasRec over its Parquet module; `replay_bucketed` also encodes sequences of like length together."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# ruff: noqa: ARG002 (the libraries name the arguments of what they call)

import itertools
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import Clock, Log, Task, evaluation, hit_rate, main, padded, peak_bytes, rank_targets, versions

BUCKET = 32
"""Sequences of like length that `replay_bucketed` encodes together."""


def run(task: Task, log: Log) -> dict[str, Any]:
    import lightning
    import torch

    torch.set_num_threads(task.threads)
    lightning.seed_everything(task.seed, verbose=False)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from replay.nn.lightning import LightningModule
    from replay.nn.lightning.optimizer import OptimizerFactory

    start = time.perf_counter()
    schema, data = _data(task, log)
    model = _model(task, log, schema)
    module = LightningModule(model, optimizer_factory=OptimizerFactory(learning_rate=task.learning_rate))
    prepared = time.perf_counter() - start
    clock = Clock()
    _trainer(task, _timer(clock)).fit(module, datamodule=data)
    data.setup("fit")
    start = time.perf_counter()
    for _ in itertools.islice(data.train_dataloader(), task.steps or None):
        pass
    result = {
        "training": clock.summary(),
        "prepare_seconds": prepared,
        "input_seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_peak_bytes": peak_bytes(),
    }
    if task.evaluate:
        result["evaluation"] = _evaluate(task, log, module, data)
    if task.quality:
        model.eval()
        with torch.no_grad():
            vectors = model.body.embedder.get_item_weights(None).numpy()
            states = _states(task, log, model)
            result["quality"] = rank_targets(log, states, vectors, np.ones(log.num_items, bool))
    return {
        **result,
        "peak_bytes": peak_bytes(),
        "versions": versions("replay-rec", "torch", "lightning", "numpy", "pyarrow"),
    }


def _data(task: Task, log: Log) -> tuple[Any, Any]:
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.nn.transform import UniformNegativeSamplingTransform
    from replay.nn.transform.template import make_default_sasrec_transforms

    schema = TensorSchema(
        [
            TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
                cardinality=log.num_items,
                padding_value=log.num_items,
                embedding_dim=task.dim,
            )
        ]
    )
    transforms = make_default_sasrec_transforms(schema)
    if task.loss == "sampled":
        transforms["train"].append(UniformNegativeSamplingTransform(log.num_items, task.negatives))
    item = {"shape": task.length, "padding": log.num_items}
    seen = {"shape": int(np.diff(log.history_offsets).max()), "padding": -1}
    folder = Path(task.export)
    data = ParquetModule(
        batch_size={"train": task.batch, "predict": 256},
        metadata={
            "train": {"query_id": {}, "item_id": {**item, "shape": task.length + 1}},
            "predict": {"query_id": {}, "item_id": item, "seen_ids": seen},
        },
        transforms=transforms,
        train_path=str(folder / "train.parquet"),
        predict_path=str(folder / "predict.parquet"),
    )
    return schema, data


def _model(task: Task, log: Log, schema: Any) -> Any:
    from replay.nn.loss import CESampled
    from replay.nn.sequential import SasRec
    from replay.nn.sequential.length_bucket import LengthBucketedQueryEncoder

    model = SasRec.from_params(
        schema,
        embedding_dim=task.dim,
        num_heads=task.heads,
        num_blocks=task.blocks,
        max_sequence_length=task.length,
        dropout=task.dropout,
    )
    if task.loss == "sampled":
        model.loss = CESampled(ignore_index=log.num_items)
        model.loss.logits_callback = model.get_logits
    if task.peer == "replay_bucketed":
        model.body.encoder = LengthBucketedQueryEncoder(model.body.encoder, BUCKET)
    return model


def _trainer(task: Task, *callbacks: Any) -> Any:
    import lightning

    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1 + task.epochs,
        limit_train_batches=task.steps or None,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def _timer(clock: Clock) -> Any:
    import lightning

    class Timer(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            clock.begin_epoch()
            clock.begin_step()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            # Here a short sequence's first event has a loss too, with nothing before it: it is not a real target.
            clock.end_step(int((batch["target_padding_mask"][..., 0] & batch["padding_mask"]).sum()))
            clock.begin_step()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            clock.end_epoch(trainer.callback_metrics.get("train_loss_epoch"))

    return Timer()


def _evaluate(task: Task, log: Log, module: Any, data: Any) -> dict[str, float]:
    from replay.nn.lightning.callback import TorchTopItemsCallback
    from replay.nn.lightning.postprocessor import SeenItemsFilter

    callback = TorchTopItemsCallback(
        top_k=10, query_column="query_id", postprocessors=[SeenItemsFilter(log.num_items, "seen_ids")]
    )
    start = time.perf_counter()
    _trainer(task, callback).predict(module, datamodule=data, return_predictions=False)
    query, item, _ = callback.get_result()
    result = evaluation(len(query), start)
    top = np.full((len(log.target), 10), -1)
    top[query.numpy()] = item.numpy()
    return {**result, "hr@10": hit_rate(log, top)}


def _states(task: Task, log: Log, model: Any) -> Any:
    import torch

    def states(queries: np.ndarray) -> np.ndarray:
        rows = padded((log.history(q) for q in queries), task.length, left=True, fill=log.num_items)
        items = torch.from_numpy(rows)
        return model.body({"item_id": items}, items != log.num_items)[:, -1].numpy()

    return states


if __name__ == "__main__":
    main(run)
