"""One training step with tables of very different lengths: with sampled losses only the rows that a step touches move.

    python benchmarks/table_rows.py [--items 20000 2000000] [--rounds 40] [--rule adam]

The same histories, over few or over many items; the steps take turns, so that what else the machine does falls on both
alike, and of each the median counts.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import jax
from input import Case, write_case

from mdrec_jax.config import RunConfig
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.optim.optimiser import OptimConfig, TableConfig
from mdrec_jax.train.bench import peak_mib
from mdrec_jax.train.setup import Setup

BATCHING = BatchingConfig(rows=128, row_length=128, max_length=50)
CASE = Case("short histories", 20_000, 5, 8.9, 1, "loo", BATCHING)


class Contender:
    """A run of its own, one step at a time."""

    def __init__(self, items: int, rule: Literal["adam", "adagrad", "sgd"], folder: Path) -> None:
        dataset = write_case(replace(CASE, items=items), folder / str(items))
        config = RunConfig(
            batching=BATCHING,
            model=RecommenderConfig(dim=64, layers=2, heads=1, attention_window=50),
            loss=NextItemConfig(kind="sampled_softmax", negatives=256),
            optim=OptimConfig(table=TableConfig(rule=rule)),
        )
        self.setup = Setup.of(config, dataset)
        self.state, batches = self.setup.initial_state(), self.setup.batches_from(0)
        self.batches = [next(batches) for _ in range(8)]
        self.seconds: list[float] = []
        self.step(0)
        self.seconds.clear()

    def step(self, number: int) -> None:
        start = time.perf_counter()
        self.state, metrics = self.setup.train_step(self.state, self.batches[number % len(self.batches)])
        jax.block_until_ready((self.state, metrics))
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 2_000_000])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rule", choices=("adam", "adagrad", "sgd"), default="adam")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        contenders = {items: Contender(items, options.rule, Path(temporary)) for items in options.items}
        for number in range(1, options.rounds + 1):
            for contender in contenders.values():
                contender.step(number)
    print("| items | ms a step | ratio |\n| --- | --- | --- |")
    first = median(next(iter(contenders.values())).seconds)
    for items, contender in contenders.items():
        middle = median(contender.seconds)
        print(f"| {items:,} | {middle * 1e3:.1f} | {middle / first:.3f} |")
    print(f"{options.rule}, 256 shared negatives, {BATCHING.rows} x {BATCHING.row_length}; peak {peak_mib():,.0f} MiB")


if __name__ == "__main__":
    main()
