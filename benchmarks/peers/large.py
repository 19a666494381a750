"""A large catalogue with short histories: every item is trained on at least once, the rest by a popularity law.

What it says is only how fast a program is: the events carry nothing that could be learned.
"""

from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, write_log
from mdrec_jax.data.sources.rawlog import RawLog

LEAST = 5
"""Events of the shortest history."""
MEAN = 10.5
LONGEST = 50


def make_large(out: Path, *, items: int = 500_000, users: int = 65_000, seed: int = 0) -> Dataset:
    """Writes the dataset `out`: lengths like Amazon Beauty's (least 5, mean about 10, at most 50), one domain.

    Raises:
        ValueError: too few events for every item to be in training.
    """
    rng = np.random.default_rng(seed)
    lengths = np.minimum(LEAST + np.floor(rng.exponential(MEAN - LEAST, users)), LONGEST).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    train = np.flatnonzero(place < np.repeat(lengths, lengths) - 2)
    if len(train) < items:
        raise ValueError(f"{users} users have {len(train)} training events for {items} items")
    # A Zipf law by inversion: item i with probability about proportional to 1 / (i + 1).
    item = np.minimum(np.exp(rng.random(offsets[-1]) * np.log(items)).astype(np.int64) - 1, items - 1)
    item[rng.permutation(train)[:items]] = np.arange(items)
    events = pl.LazyFrame(
        {
            "user": np.repeat(np.arange(users), lengths),
            "item": item,
            "time": place,
            "order": np.arange(len(item)),
        }
    ).with_columns(pl.col("user", "item").cast(pl.String), domain=pl.lit("large"), event=pl.lit("event"))
    log = RawLog(events=events, has_time=True, ordered=True, files=())
    return write_log(log, "large catalogue", out, PrepareOptions(seed=seed))
