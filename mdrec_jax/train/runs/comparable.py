"""Which runs may be averaged and compared, and about which data a run may be asked.

One mean is over runs that differ in their seed alone and came to their end: the last step of the schedule, or the end
of the patience. A run is asked about its own data set, or one that extends it, whose new items it does not know.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdrec_jax.codec import CLASS
from mdrec_jax.config import RunConfig, read_config
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.manifest import ROLES
from mdrec_jax.errors import InputError
from mdrec_jax.files import read_object
from mdrec_jax.terminal import say
from mdrec_jax.train.runs.checkpoint import latest_progress
from mdrec_jax.train.runs.run_folder import STEPS, RunFolder, differences, read_data

NOT_LEARNED = ("hardware", "logging")
"""Fields in which runs of one mean may differ."""
LENGTH = ("epochs", "steps", "patience")
"""Fields of `train` that say where a run ends; its hash leaves them out."""


def check_alike(configs: Sequence[RunConfig], datasets: Sequence[str]) -> None:
    """Refuses a mean over different models. The length counts: the schedule ends with it.

    Args:
        configs: of the runs.
        datasets: the hashes of the data sets that they are asked about.

    Raises:
        InputError: naming the first field that differs, or a seed that is there twice.
    """
    first = _plain(configs[0], datasets[0])
    for number, (config, dataset) in enumerate(zip(configs, datasets, strict=True), 1):
        changed = differences(first, _plain(config, dataset))
        # Another class has other fields: it is named before them.
        for name in sorted(changed, key=lambda name: not name.endswith(CLASS)):
            old, new = changed[name]
            raise InputError(
                f"run {number} differs from the first in more than its seed",
                column=name,
                found=new,
                expected=str(old),
                hint="evaluate them one by one, then see `mdrec compare`",
            )
    seeds = [config.seed for config in configs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError("two runs of one seed", column="seed", found=seed, expected="each seed once")


def _plain(config: RunConfig, dataset: str) -> dict[str, Any]:
    plain = dataclasses.replace(config, seed=0).to_plain()
    return {name: value for name, value in plain.items() if name not in NOT_LEARNED} | {"dataset": dataset}


@dataclass(frozen=True)
class Ending:
    """
    Args:
        done: steps, as the newest whole checkpoint has it.
        planned: steps of the schedule.
        patience: whether it ran out: such a run is a whole one.
    """

    done: int
    planned: int
    patience: bool

    @property
    def whole(self) -> bool:
        return self.patience or self.done >= self.planned

    def length(self) -> dict[str, float]:
        """What a results file says of a run that is not whole."""
        return {} if self.whole else {"stopped_at": self.done, "planned": self.planned}


def ending(folder: RunFolder) -> Ending:
    """How far a run came. Raises InputError where its record is damaged."""
    planned, patience = read_object(folder.config, STEPS)[STEPS], read_config(folder.config).train.patience
    if not isinstance(planned, int):
        raise InputError("a damaged file", file=folder.config, column=STEPS, found=planned, expected="a number")
    done, progress = latest_progress(folder.checkpoints)
    return Ending(done, planned, 0 < patience <= progress.validations_without_better)


def check_ended(paths: Sequence[Path]) -> list[Ending]:
    """Refuses a mean over runs one of which stopped before its end; what ended early is told.

    Raises:
        InputError: naming the first of them.
    """
    ends = [ending(RunFolder(path)) for path in paths]
    for path, end in zip(paths, ends, strict=True):
        far = f"step {end.done:,} of {end.planned:,}"
        if not end.whole and len(paths) > 1:
            raise InputError(
                "a run that did not come to its end is no seed of a mean",
                file=path,
                found=far,
                expected="the last step of its schedule, or the end of its patience",
                hint=f"go on with it: mdrec train --resume --run {path}; or evaluate it by itself",
            )
        if not end.whole:
            say(f"note: {path} did not come to its end: {far}, and the schedule was made for all", file=sys.stderr)
        elif end.done < end.planned:
            say(f"{path} ended at {far}, where its patience ran out", file=sys.stderr)
    return ends


def as_the_run_knows(folder: RunFolder, dataset: Dataset, *, asked: bool = True) -> Dataset:
    """`dataset` with the items that the run in `folder` was trained with.

    Args:
        asked: the run is asked about the data set, and what it does not know of it is told; else another one goes on
            from its parameters.

    Raises:
        InputError: neither the run's data set nor one that extends it: its ids mean something else.
    """
    _, trained = read_data(folder)
    items = dataset.manifest.items_of(trained)
    if items is None:
        raise InputError(
            "the run was trained on other data, whose ids mean something else",
            file=dataset.path,
            found=f"data {dataset.hash[:12]}",
            expected=f"data {trained[:12]}, or what `mdrec prepare --extend` made of it",
        )
    known = dataset.with_first_items(items)
    new = dataset.num_items - known.num_items
    if new and asked:
        lost = [
            f"{np.count_nonzero(dataset.role == role) - np.count_nonzero(known.role == role):,} {ROLES[role]}"
            for role in (1, 2)
        ]
        say(
            f"{new:,} items of {dataset.path} are new to the run: they are not recommended, stand for unknown items "
            f"in histories, and are no targets (left out: {' and '.join(lost)} targets)",
            file=sys.stderr,
        )
    return known
