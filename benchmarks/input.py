"""Speed of the input alone: finished training batches, all fields, from memory-mapped files, on one core.

    python benchmarks/input.py [--folder DIR] [--epochs 3]

writes six data sets (kept in DIR if it is given), reads each back and times whole epochs, planning included, the
pages of the files in memory. Targets are real targets: each counts once an epoch, padding never.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.manifest import SCHEMA, Counts, Manifest, combined_hash
from mdrec_jax.data.prepare.splits import assign_roles, parse_split
from mdrec_jax.data.prepare.writer import stored_files, write_columns, write_tables, writing

ITEMS = 12_000
EVENT_TYPES = ("view", "click", "buy")


@dataclass(frozen=True)
class Case:
    """One data set and how it is read."""

    name: str
    users: int
    shortest: int
    mean: float
    domains: int
    split: str
    config: BatchingConfig
    items: int = ITEMS


BEAUTY = (400_000, 5, 8.9)
ML1M = (20_000, 20, 166.0)
SHORT = BatchingConfig(rows=64, row_length=128, max_length=50)
LONG = BatchingConfig(rows=16, row_length=400, max_length=200)
ALL = BatchingConfig(rows=16, row_length=400, max_length=200, window="all")

CASES = (
    Case("beauty-like", *BEAUTY, 1, "loo", SHORT),
    Case("beauty-like, 3 domains", *BEAUTY, 3, "loo-mixed", SHORT),
    Case("beauty-like, 3 domains, held out by domain", *BEAUTY, 3, "loo", SHORT),
    Case("ml-1m-like", *ML1M, 1, "loo", LONG),
    Case("ml-1m-like, whole histories", *ML1M, 1, "loo", ALL),
    Case("ml-1m-like, 3 domains, held out by domain", *ML1M, 3, "loo", LONG),
)


def write_case(case: Case, out: Path) -> Dataset:
    """Random events whose lengths fall off exponentially; each user leans to one domain."""
    rng = np.random.default_rng(0)
    lengths = case.shortest + np.rint(rng.exponential(case.mean - case.shortest, case.users)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = int(offsets[-1])
    home = np.repeat(rng.integers(case.domains, size=case.users), lengths)
    strays = rng.random(events) < 0.3
    domain = np.where(strays, rng.integers(case.domains, size=events), home).astype(np.int16)
    clock = 1_400_000_000 + rng.integers(0, 10**8, events)
    clock = clock[np.lexsort((clock, np.repeat(np.arange(case.users), lengths)))]
    everything = np.ones(events, bool)
    columns = {
        "sequence_offsets": offsets,
        "sequence_user": np.arange(case.users, dtype=np.int32),
        "item": rng.integers(2, case.items + 2, events).astype(np.int32),
        "domain": domain,
        "event": rng.integers(len(EVENT_TYPES), size=events).astype(np.int16),
        "time": clock.astype(np.int64),
        "role": assign_roles(parse_split(case.split), offsets, domain, everything, clock, None),
    }
    names = tuple(f"domain{index}" for index in range(case.domains))
    items = pl.DataFrame({"id": np.arange(2, case.items + 2, dtype=np.int32)})
    with writing(out) as folder:
        write_columns(folder, columns)
        write_tables(folder, pl.DataFrame({"raw": [""]}), names, (items,) * case.domains)
        files = stored_files(folder)
        Manifest(
            schema=SCHEMA, source="random", created_by="benchmarks/input.py", sources=(), files=files, domains=names,
            event_types=EVENT_TYPES, counts=Counts(case.users, case.users, events, case.items, {}, {}, {}),
            split={"rule": case.split}, filters={}, tie="file", seed=0, items_across="shared", has_time=True,
            ordered=True, time_origin=int(clock.min()), parents=(), hash=combined_hash(files),
        ).write(folder)  # fmt: skip
    return open_dataset(out)


def measure(case: Case, dataset: Dataset, epochs: int) -> str:
    """A row of the table: the quickest of some epochs by wall time, and by this thread's own processor time."""
    begin = time.perf_counter()
    batches = TrainBatches(dataset, case.config, 0)
    opened = time.perf_counter() - begin
    count = batches.batches_per_epoch()
    # The first epoch brings every page into memory, and counts.
    targets = round(sum(float(batches[i].weight.sum()) for i in range(count)))
    wall, processor, planning = [], [], []
    for epoch in range(1, epochs + 1):
        start, own = time.perf_counter(), time.thread_time()
        batches.plan(epoch)
        planning.append(time.perf_counter() - start)
        for i in range(epoch * count, (epoch + 1) * count):
            batches[i]
        wall.append(time.perf_counter() - start)
        processor.append(time.thread_time() - own)
    numbers = (
        f"{targets / min(wall) / 1e6:.1f}",
        f"{targets / min(processor) / 1e6:.1f}",
        f"{batches.fill:.4f}",
        f"{targets}",
        f"{count}",
        f"{min(planning) * 1e3:.1f}",
        f"{opened:.2f}",
    )
    return " | ".join((case.name, *numbers))


HEADER = ("data set", "million targets/s", "of own CPU time", "fill", "targets", "batches", "plan ms", "open s")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the data sets here and use those that are there")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
        for number, case in enumerate(CASES):
            path = folder / f"case{number}"
            dataset = open_dataset(path) if path.exists() else write_case(case, path)
            print(f"| {measure(case, dataset, options.epochs)} |", flush=True)


if __name__ == "__main__":
    main()
