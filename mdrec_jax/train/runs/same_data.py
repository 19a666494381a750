"""Which data sets a run may be asked about: its own, and those that extend it, whose new items it does not know."""

import sys

import numpy as np

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.manifest import ROLES
from mdrec_jax.errors import InputError
from mdrec_jax.terminal import say
from mdrec_jax.train.runs.run_folder import RunFolder, read_data


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
