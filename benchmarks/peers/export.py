"""A prepared dataset as plain arrays that every peer's runner can read."""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.errors import InputError

TRAIN, TEST = 0, 2


def export(dataset: Dataset, out: Path, *, max_queries: int = 0) -> Path:
    """Writes `out`/log.npz (see `common.Log`) and `out`/train.parquet, `out`/predict.parquet (lists a sequence).

    Items are numbered 0 .. I-1 in the order of their ids, which is a random one. With `max_queries` only so many test
    targets are kept, evenly spread.

    Raises:
        InputError: a dataset of several domains, or a sequence with several test targets.
    """
    if dataset.num_domains != 1:
        raise InputError("peers know one domain", file=dataset.path, found=dataset.num_domains, expected="1")
    role, item = np.asarray(dataset.role), np.asarray(dataset.item) - FIRST_ITEM
    sequence = np.repeat(np.arange(dataset.num_sequences), np.diff(dataset.sequence_offsets))
    if (item < 0).any():
        raise InputError("peers know no unknown items", file=dataset.path)
    train = role == TRAIN
    test = np.flatnonzero(role == TEST)
    if len(np.unique(sequence[test])) < len(test):
        raise InputError("a sequence has several test targets", file=dataset.path)
    if max_queries and len(test) > max_queries:
        test = test[np.linspace(0, len(test) - 1, max_queries).astype(np.int64)]
    lengths = test - dataset.sequence_offsets[sequence[test]]
    visible = np.repeat(np.cumsum(lengths) - lengths, lengths)
    history = np.arange(len(visible)) - visible + np.repeat(test - lengths, lengths)
    arrays = {
        "train_offsets": _offsets(np.bincount(sequence[train], minlength=dataset.num_sequences)),
        "train_item": item[train],
        "query_sequence": sequence[test],
        "history_offsets": _offsets(lengths),
        "history_item": item[history],
        "target": item[test],
    }
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "log.npz", num_items=dataset.num_items - FIRST_ITEM, **arrays)
    _lists(arrays["train_offsets"], arrays["train_item"], least=2).write_parquet(out / "train.parquet")
    predict = _lists(arrays["history_offsets"], arrays["history_item"], least=1)
    predict.with_columns(seen_ids=pl.col("item_id")).write_parquet(out / "predict.parquet")
    return out


def _offsets(lengths: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S+1"]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _lists(offsets: Int[np.ndarray, " S+1"], item: Int[np.ndarray, " N"], least: int) -> pl.DataFrame:
    """query_id, item_id (a list a row) of the rows that hold at least `least` items."""
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    frame = pl.DataFrame({"query_id": row, "item_id": item.astype(np.int64)})
    return frame.group_by("query_id", maintain_order=True).agg("item_id").filter(pl.col("item_id").list.len() >= least)
