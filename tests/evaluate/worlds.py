"""Small data sets for the tests of evaluation."""

from pathlib import Path

import numpy as np

from mdrec_jax.data.dataset import Dataset
from tests.data.make import DAY, make_dataset


def two_domains(out: Path, *, users: int = 40, items: int = 30, seed: int = 0) -> Dataset:
    """Users with 4 to 12 events in "books" and "films", 3 of 5 in the first; items are the domain's own."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for place in range(int(generator.integers(6, 16))):
            domain = "books" if generator.random() < 0.6 else "films"
            popular = int(items * generator.random() ** 2)
            rows.append((f"u{user}", f"{domain}-{popular}", domain, place * DAY + user))
    return make_dataset(out, rows)


def without_order(out: Path) -> Dataset:
    """Three people whose several test items are one question each."""
    held = {"a": (["1", "2", "3"], ["4", "5"]), "b": (["2", "3", "4"], ["1"]), "c": (["1", "5", "6"], ["2", "3", "4"])}
    rows, roles = [], []
    for user, (train, test) in held.items():
        rows += [(user, item) for item in train + test]
        roles += [0] * len(train) + [2] * len(test)
    return make_dataset(out, rows, has_time=False, ordered=False, default_split="given", role=roles)
