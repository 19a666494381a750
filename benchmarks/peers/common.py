"""What every runner shares: the task, the exported log, the clock, the ranking rule and the result.

Runs in a peer's own environment: Python 3.11, numpy and nothing else. Item numbers here are 0 .. I-1.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 256
"""Users whose scores over the whole catalogue are held at once."""


@dataclass(frozen=True)
class Task:
    """One training to be timed.

    Args:
        export: folder that `export.py` wrote.
        dataset: the prepared dataset it was written from, which ours reads itself.
        peer: name of the runner's variant.
        loss: "softmax" over the whole catalogue, or "sampled".
        negatives: of the sampled loss.
        length: tokens of a sequence that a model sees (a sequence of n events has min(n - 1, length) targets).
        dim, blocks, heads, dropout, learning_rate: of SASRec with Adam.
        batch: sequences of a step.
        epochs: whole epochs behind the first, which is not timed.
        steps: at most so many steps an epoch; 0 = whole epochs.
        evaluate: time recommendations for every test user.
        quality: rank the test targets by the common rule.
        threads: of the numerical library.
    """

    export: str
    dataset: str
    peer: str
    loss: str = "softmax"
    negatives: int = 256
    length: int = 50
    dim: int = 64
    blocks: int = 2
    heads: int = 1
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch: int = 128
    epochs: int = 1
    steps: int = 0
    evaluate: bool = True
    quality: bool = True
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Log:
    """The exported data: ragged training sequences, and one test query a sequence that has one."""

    num_items: int
    train_offsets: np.ndarray
    train_item: np.ndarray
    query_sequence: np.ndarray
    """Sequence of each query, ascending."""
    history_offsets: np.ndarray
    history_item: np.ndarray
    """All that is visible before each query's target: training and validation events, oldest first."""
    target: np.ndarray

    def train(self, index: int | np.integer) -> np.ndarray:
        return self.train_item[self.train_offsets[index] : self.train_offsets[index + 1]]

    def history(self, query: int | np.integer) -> np.ndarray:
        return self.history_item[self.history_offsets[query] : self.history_offsets[query + 1]]

    @property
    def num_sequences(self) -> int:
        return len(self.train_offsets) - 1

    def targets(self, length: int) -> int:
        """Real targets of an epoch: each sequence's last `length` events that have one before them."""
        return int(np.clip(np.diff(self.train_offsets) - 1, 0, length).sum())


def load_log(task: Task) -> Log:
    with np.load(Path(task.export) / "log.npz") as file:
        return Log(num_items=int(file["num_items"]), **{name: file[name] for name in file.files if name != "num_items"})


def padded(rows: Iterator[np.ndarray] | list[np.ndarray], width: int, *, left: bool, fill: int = 0) -> np.ndarray:
    """[len(rows), width]: each row's last `width` numbers, pushed to one side."""
    rows = list(rows)
    out = np.full((len(rows), width), fill, np.int64)
    for place, row in enumerate(rows):
        row = row[-width:]
        out[place, width - len(row) if left else 0 : width if left else len(row)] = row
    return out


class Clock:
    """Times of epochs and steps. The first epoch is kept apart: caches fill and programs are compiled in it."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.steps: list[float] = []
        self.losses: list[float] = []
        self._began = self._step = 0.0
        self._targets = self._count = 0

    def begin_epoch(self) -> None:
        self._targets = self._count = 0
        self._began = time.perf_counter()

    def begin_step(self) -> None:
        self._step = time.perf_counter()

    def end_step(self, targets: int) -> None:
        self.steps.append(time.perf_counter() - self._step)
        self._targets += targets
        self._count += 1

    def end_epoch(self, loss: float | None = None) -> None:
        seconds = time.perf_counter() - self._began
        self.epochs.append({"seconds": seconds, "targets": self._targets, "steps": self._count})
        if loss is not None:
            self.losses.append(float(loss))

    def summary(self) -> dict[str, Any]:
        """Rates of the epochs behind the first, by their medians; step times of all steps behind the first epoch."""
        timed = self.epochs[1:] or self.epochs
        steps = np.array(self.steps[int(self.epochs[0]["steps"]) :] or self.steps)
        return {
            "targets_per_second": float(np.median([e["targets"] / e["seconds"] for e in timed])),
            "targets_per_epoch": int(timed[-1]["targets"]),
            "steps_per_epoch": int(timed[-1]["steps"]),
            "epoch_seconds": [e["seconds"] for e in self.epochs],
            "first_step_seconds": self.steps[0],
            "step_seconds": {q: float(np.percentile(steps, p)) for q, p in (("p10", 10), ("p50", 50), ("p90", 90))},
            "losses": self.losses,
        }


def peak_bytes() -> int:
    """The most resident memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rank_targets(
    log: Log, user_vectors: Callable[[np.ndarray], np.ndarray], item_vectors: np.ndarray, known: np.ndarray
) -> dict[str, float]:
    """HR@10 and NDCG@10 over the whole catalogue without the seen items; rank = 1 + higher + half of ties.

    Args:
        user_vectors: queries [Q] -> states [Q, D] after their histories.
        item_vectors: [I, D].
        known: [I], whether the peer knows the item at all; one that it does not is ranked last.
    """
    ranks = np.zeros(len(log.target))
    for start in range(0, len(ranks), BLOCK):
        queries = np.arange(start, min(start + BLOCK, len(ranks)))
        scores = user_vectors(queries).astype(np.float32) @ item_vectors.T.astype(np.float32)
        scores[:, ~known] = -np.inf
        target = log.target[queries]
        rows = np.arange(len(queries))
        mine = scores[rows, target].copy()
        for row, query in enumerate(queries):
            scores[row, log.history(query)] = np.nan  # compares as neither higher nor equal
        scores[rows, target] = np.nan
        higher, ties = (scores > mine[:, None]).sum(1), (scores == mine[:, None]).sum(1)
        ranks[queries] = 1 + higher + ties / 2
    return rank_metrics(ranks)


def rank_metrics(ranks: np.ndarray) -> dict[str, float]:
    """HR@10 and NDCG@10 of ranks from 1; ours are ranked by the same rule inside the program."""
    hit = ranks <= 10
    return {"hr@10": float(hit.mean()), "ndcg@10": float((hit / np.log2(ranks + 1)).mean())}


def evaluation(users: int, start: float) -> dict[str, float]:
    """The rate of recommending to `users` since `start` of the performance counter."""
    seconds = time.perf_counter() - start
    return {"users": int(users), "seconds": seconds, "users_per_second": users / seconds}


def hit_rate(log: Log, top: np.ndarray) -> float:
    """HR@10 of a peer's own lists [Q, 10]: a check on the common rule, which breaks ties otherwise."""
    return float((top == log.target[:, None]).any(1).mean())


def limit_threads(threads: int) -> None:
    """At most `threads` cores for this process and every library that it has not loaded yet."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def versions(*names: str) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(run: Callable[[Task, Log], dict[str, Any]]) -> None:
    """`python run_PEER.py TASK.json RESULT.json`: read the task, limit the threads, run, write the result."""
    task = Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    limit_threads(task.threads)
    result = {"task": asdict(task), **run(task, load_log(task))}
    Path(sys.argv[2]).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
