"""A disentangled model's codes where the histories of queries end."""

import dataclasses

import numpy as np
from jaxtyping import Float32

from mdrec_jax.data.batching.queries import QueryList, query_batches
from mdrec_jax.data.batching.streams import plain
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.scorer import Scorer, states

MOST = 20_000
"""Histories that are read at most, the same ones each time."""


def last_events(queries: QueryList) -> QueryList:
    """The different histories of some queries, each for the domain of its last event; empty ones are left out."""
    known = np.flatnonzero(queries.history_length > 0)
    keys = np.stack([queries.sequence[known], queries.history_end[known]], axis=1)
    chosen = np.sort(known[np.unique(keys, axis=0, return_index=True)[1]])
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST, replace=False))
    last = queries.visible[queries.history_end[chosen] - 1]
    arrays = ("place", "sequence", "user", "target", "time", "history_begin", "history_end")
    return dataclasses.replace(
        queries,
        domain=plain(queries.dataset.domain)[last].astype(np.int32),
        **{name: getattr(queries, name)[chosen] for name in arrays},
    )


def codes_at(scorer: Scorer, dataset: Dataset, histories: QueryList, code: str) -> Float32[np.ndarray, "N D"]:
    """The code of each history, in their order."""
    source = query_batches(dataset, histories, scorer.batching, rows=scorer.rows)
    parts = list(states(scorer, source, code))
    number = np.concatenate([number for number, _ in parts])
    x = np.empty((len(histories), parts[0][1].shape[1]), np.float32)
    x[number] = np.concatenate([x for _, x in parts])
    return x
