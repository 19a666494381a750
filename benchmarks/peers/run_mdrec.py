"""Ours, by the same task and clock: packed rows that hold about as many tokens as the peers' batch has real ones."""

import dataclasses
import os
import time
from typing import Any

import numpy as np
from common import Clock, Log, Task, evaluation, main, peak_bytes, rank_metrics, versions

SLACK = 2
"""A row is this many windows long: packing leaves few slots empty."""


def run(task: Task, log: Log) -> dict[str, Any]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.train.setup import Setup

    start = time.perf_counter()
    setup = Setup.of(_config(task, log), open_dataset(task.dataset))
    state = setup.initial_state()
    prepared = time.perf_counter() - start
    clock = Clock()
    steps = setup.batches.batches_per_epoch()
    if task.steps:
        steps = min(steps, task.steps)
    batches = setup.batches_from(0)
    for _ in range(1 + task.epochs):
        state = _epoch(setup, state, batches, steps, clock)
    start = time.perf_counter()
    for step in range(steps):
        setup.batches[step]
    result = {
        "training": clock.summary(),
        "prepare_seconds": prepared,
        "input_seconds": time.perf_counter() - start,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "train_peak_bytes": peak_bytes(),
    }
    if task.evaluate or task.quality:
        result |= _evaluate(setup, state, log)
    return {**result, "peak_bytes": peak_bytes(), "versions": versions("mdrec-jax", "mdrec-kernels", "jax", "numpy")}


def _evaluate(setup: Any, state: Any, log: Log) -> dict[str, Any]:
    """Ranks every query's target in the whole catalogue, twice: the first time compiles, and is kept apart."""
    from mdrec_jax.evaluate.evaluation_set import evaluation_set
    from mdrec_jax.evaluate.protocol import Protocol
    from mdrec_jax.evaluate.ranking import rank_queries
    from mdrec_jax.evaluate.scorer import make_scorer

    eval_set = evaluation_set(setup.dataset, Protocol())
    eval_set = dataclasses.replace(
        eval_set, queries=_some(eval_set.queries, np.isin(eval_set.queries.sequence, log.query_sequence))
    )
    scorer = make_scorer(setup.model, state.params, setup.config.batching)
    start = time.perf_counter()
    rank_queries(scorer, eval_set)
    first = time.perf_counter() - start
    start = time.perf_counter()
    rank = rank_queries(scorer, eval_set).rank[:, 0]
    timed = {**evaluation(len(rank), start), "first_seconds": first}
    return {"evaluation": timed, "quality": rank_metrics(rank)}


def _some(queries: Any, chosen: np.ndarray) -> Any:
    """The chosen queries of a list."""
    names = ("place", "sequence", "user", "domain", "target", "time", "history_begin", "history_end")
    return dataclasses.replace(queries, **{name: getattr(queries, name)[chosen] for name in names})


def _config(task: Task, log: Log) -> Any:
    from mdrec_jax.config import RunConfig
    from mdrec_jax.data.batching.batches import BatchingConfig
    from mdrec_jax.models.config import RecommenderConfig
    from mdrec_jax.objectives.next_item import NextItemConfig
    from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig

    tokens = float(np.clip(np.diff(log.train_offsets) - 1, 0, task.length).mean())
    row_length = SLACK * task.length
    return RunConfig(
        batching=BatchingConfig(
            rows=max(1, round(task.batch * tokens / row_length)), row_length=row_length, max_length=task.length
        ),
        model=RecommenderConfig(
            dim=task.dim,
            layers=task.blocks,
            heads=task.heads,
            ffn_multiple=1.0,
            attention_window=task.length,
            embedding_dropout=task.dropout,
            inner_dropout=task.dropout,
            residual_dropout=task.dropout,
            embedding_scale=task.dim**0.5,
            init_scale=(2 / (log.num_items + task.dim)) ** 0.5,  # Xavier's, as the peers have it
        ),
        loss=NextItemConfig(kind="softmax" if task.loss == "softmax" else "sampled_softmax", negatives=task.negatives),
        optim=OptimConfig(
            dense=DenseConfig(learning_rate=task.learning_rate), table=TableConfig(learning_rate=task.learning_rate)
        ),
        seed=task.seed,
    )


def _epoch(setup: Any, state: Any, batches: Any, steps: int, clock: Clock) -> Any:
    """An epoch with one step in flight, as in training: a step's numbers are read while the next one runs."""
    clock.begin_epoch()
    clock.begin_step()
    pending, losses = None, []
    for _ in range(steps):
        state, metrics = setup.train_step(state, next(batches))
        if pending is not None:
            losses.append(_read(pending, clock))
        pending = metrics
    losses.append(_read(pending, clock))
    clock.end_epoch(float(np.mean(losses)))
    return state


def _read(metrics: Any, clock: Clock) -> float:
    import jax

    values = jax.device_get(metrics)
    clock.end_step(round(float(values["targets"])))
    clock.begin_step()
    return float(values["loss"])


if __name__ == "__main__":
    main(run)
