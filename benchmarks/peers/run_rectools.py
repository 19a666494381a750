"""RecTools: its SASRecModel as users run it (`rectools`), and its fast network with its fast loader (`rectools_fast`).

The fast network comes without a trainer; the loop around it here is the shortest that torch allows.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# ruff: noqa: ARG002 (the libraries name the arguments of what they call)

import itertools
import logging
import time
import warnings
from typing import Any

import numpy as np
from common import BLOCK, Clock, Log, Task, evaluation, hit_rate, main, padded, peak_bytes, rank_targets, versions


def run(task: Task, log: Log) -> dict[str, Any]:
    import torch

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    result = (_fast if task.peer == "rectools_fast" else _model)(task, log)
    return {**result, "versions": versions("rectools", "torch", "pytorch-lightning", "numpy")}


def _model(task: Task, log: Log) -> dict[str, Any]:
    import torch
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    clock = Clock()
    start = time.perf_counter()
    model = SASRecModel(
        n_blocks=task.blocks,
        n_heads=task.heads,
        n_factors=task.dim,
        dropout_rate=task.dropout,
        session_max_len=task.length,
        loss={"softmax": "softmax", "sampled": "sampled_softmax"}[task.loss],
        n_negatives=task.negatives,
        lr=task.learning_rate,
        batch_size=task.batch,
        recommend_batch_size=256,
        get_trainer_func=lambda: _trainer(task, _timer(clock)),
    )
    train = Dataset.construct(_frame(log.train_offsets, log.train_item, np.arange(log.num_sequences)))
    model._build_model_from_dataset(train)
    loader = model.data_preparator.get_dataloader_train()
    prepared = time.perf_counter() - start
    model.fit_trainer = _trainer(task, _timer(clock))
    model.fit_trainer.fit(model.lightning_model, loader)
    model.is_fitted = True
    network = model.torch_model
    result = {
        "training": clock.summary(),
        "prepare_seconds": prepared,
        "input_seconds": _input_seconds(loader, task.steps),
        "parameters": sum(p.numel() for p in network.parameters()),
        "train_peak_bytes": peak_bytes(),
    }
    if task.evaluate:
        history = Dataset.construct(_frame(log.history_offsets, log.history_item, log.query_sequence))
        start = time.perf_counter()
        found = model.recommend(log.query_sequence, history, k=10, filter_viewed=True)
        result["evaluation"] = evaluation(found[Columns.User].nunique(), start)
        top = np.full((len(log.target), 10), -1)
        row = np.searchsorted(log.query_sequence, found[Columns.User].to_numpy())
        top[row, found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
        result["evaluation"]["hr@10"] = hit_rate(log, top)
    if task.quality:
        known = model.data_preparator.get_known_item_ids().astype(np.int64)
        place = np.zeros(log.num_items, np.int64)
        place[known] = model.data_preparator.get_known_items_sorted_internal_ids()
        mask = np.zeros(log.num_items, bool)
        mask[known] = True
        network.eval()
        with torch.no_grad():
            vectors = network.item_model.get_all_embeddings()

            def states(queries: np.ndarray) -> np.ndarray:
                rows = padded((_known(log.history(q), place, mask) for q in queries), task.length, left=True)
                return network.encode_sessions({"x": torch.from_numpy(rows)}, vectors)[:, -1].numpy()

            result["quality"] = rank_targets(log, states, vectors.numpy()[place], mask)
    return {**result, "peak_bytes": peak_bytes()}


def _known(items: np.ndarray, place: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return place[items[mask[items]]]


def _frame(offsets: np.ndarray, item: np.ndarray, user: np.ndarray) -> Any:
    import pandas as pd
    from rectools import Columns

    lengths = np.diff(offsets)
    order = np.arange(len(item)) - np.repeat(offsets[:-1], lengths)
    return pd.DataFrame(
        {
            Columns.User: np.repeat(user, lengths),
            Columns.Item: item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(order, unit="s"),
        }
    )


def _trainer(task: Task, callback: Any) -> Any:
    import pytorch_lightning as lightning

    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1 + task.epochs,
        limit_train_batches=task.steps or 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )


def _timer(clock: Clock) -> Any:
    import pytorch_lightning as lightning

    class Timer(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            clock.begin_epoch()
            clock.begin_step()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            clock.end_step(int((batch["y"] != 0).sum()))
            clock.begin_step()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            clock.end_epoch(trainer.callback_metrics.get("train_loss"))

    return Timer()


def _input_seconds(loader: Any, steps: int) -> float:
    """Seconds that an epoch's batches take without training."""
    start = time.perf_counter()
    for _ in itertools.islice(loader, steps or None):
        pass
    return time.perf_counter() - start


def _fast(task: Task, log: Log) -> dict[str, Any]:
    import torch
    from rectools.fast_transformers import FlatSASRecNet, SequenceBatchDataset, build_sequences
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    start = time.perf_counter()
    lengths = np.diff(log.train_offsets)
    users = torch.from_numpy(np.repeat(np.arange(log.num_sequences), lengths))
    x, y, known, _ = build_sequences(
        users, torch.from_numpy(log.train_item.astype(np.int64)), torch.arange(len(log.train_item)), task.length
    )
    sequences = SequenceBatchDataset(x, y, transform=_negatives(task, len(known)))
    order = BatchSampler(RandomSampler(sequences), task.batch, drop_last=False)
    batches = DataLoader(sequences, sampler=order, batch_size=None)  # whole batches by one index each
    prepared = time.perf_counter() - start
    network = FlatSASRecNet(len(known), task.dim, task.blocks, task.heads, task.length, task.dropout)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_normal_(parameter)  # as SASRecModel does; the network's own start is far too wide
    clock = Clock()
    _fit(task, network, batches, clock)
    result = {
        "training": clock.summary(),
        "prepare_seconds": prepared,
        "input_seconds": _input_seconds(batches, task.steps),
        "parameters": sum(p.numel() for p in network.parameters()),
        "train_peak_bytes": peak_bytes(),
    }
    place = np.zeros(log.num_items, np.int64)
    place[known.numpy()] = np.arange(1, len(known) + 1)
    network.eval()
    with torch.no_grad():
        vectors = network.item_emb.weight

        def states(queries: np.ndarray) -> torch.Tensor:
            rows = padded((_known(log.history(q), place, place > 0) for q in queries), task.length, left=True)
            return network.encode_last(torch.from_numpy(rows))

        if task.evaluate:
            start = time.perf_counter()
            top = torch.cat([_top(log, states, vectors, place, first) for first in range(0, len(log.target), BLOCK)])
            result["evaluation"] = evaluation(len(log.target), start)
            result["evaluation"]["hr@10"] = hit_rate(log, known.numpy()[top.numpy() - 1])
        if task.quality:
            result["quality"] = rank_targets(log, lambda q: states(q).numpy(), vectors.numpy()[place], place > 0)
    return {**result, "peak_bytes": peak_bytes()}


def _top(log: Log, states: Any, vectors: Any, place: np.ndarray, first: int) -> Any:
    """The ten best unseen items (the network's numbers) of a block of queries."""
    import torch

    queries = np.arange(first, min(first + BLOCK, len(log.target)))
    scores = states(queries) @ vectors.T
    scores[:, 0] = -torch.inf
    for row, query in enumerate(queries):
        scores[row, place[log.history(query)]] = -torch.inf
    return scores.topk(10).indices


def _negatives(task: Task, num_items: int) -> Any:
    import torch

    def draw(batch: dict[str, Any]) -> dict[str, Any]:
        shape = (*batch["y"].shape, task.negatives)
        return {**batch, "negatives": torch.randint(1, num_items + 1, shape)}

    return draw if task.loss == "sampled" else None


def _fit(task: Task, network: Any, batches: Any, clock: Clock) -> None:
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=task.learning_rate, betas=(0.9, 0.98))
    network.train()
    for _ in range(1 + task.epochs):
        clock.begin_epoch()
        clock.begin_step()
        loss = torch.zeros(())
        for batch in itertools.islice(batches, task.steps or None):
            logits, wanted = network(batch).flatten(0, 1), batch["y"].flatten()
            if task.loss == "sampled":
                loss = torch.nn.functional.cross_entropy(logits[wanted > 0], torch.zeros_like(wanted[wanted > 0]))
            else:
                loss = torch.nn.functional.cross_entropy(logits, wanted - 1, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.end_step(int((wanted > 0).sum()))
            clock.begin_step()
        clock.end_epoch(float(loss.detach()))


if __name__ == "__main__":
    main(run)
