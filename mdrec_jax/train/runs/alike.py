"""Which runs may be averaged: those that differ in their seed alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mdrec_jax.codec import CLASS
from mdrec_jax.config import RunConfig
from mdrec_jax.errors import InputError
from mdrec_jax.train.runs.run_folder import differences

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
