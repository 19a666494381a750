"""Users to recommend to, with their histories, from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.serve.event_rows import read_events
from mdrec_jax.serve.given_files import NO_NAMES


@dataclass(frozen=True)
class Users:
    """P users, G domains, H histories."""

    names: list[str]
    """As the file has them."""
    histories: Histories
    """Item 1 stands for what the catalogue does not have."""
    history: Int64[np.ndarray, "P G"]
    """The history to read for recommendations in a domain; -1 where the user has none."""
    counts: dict[str, int]
    """What was unknown or left out, by reason."""


def read_histories(
    path: Path,
    dataset: Dataset,
    *,
    time_unit: str | None = None,
    columns: Mapping[str, str] = NO_NAMES,
    latest: int | None = None,
    skip_bad_rows: bool = False,
) -> Users:
    """Histories from a table with an event a row: `user`, `item`, and `domain`, `time`, `event` where there are any.

    Events are ordered by time where there is one, else as they stand. A row with an empty item says that its user
    exists. Items that the catalogue does not have become item 1 and are counted.

    Args:
        time_unit: s, ms or iso; None = seconds.
        columns: the names of columns that the caller gives (see `given_files.read_columns`).
        latest: no event may be later, in seconds since the epoch; None = no limit but the model's.
        skip_bad_rows: rows that cannot be used are left out and counted; else the first one is refused.

    Raises:
        InputError: a file that cannot be read or has no row, a missing column, an unknown domain or event type, a bad
            time.
    """
    bad_rows = BadRows() if skip_bad_rows else None
    frame = read_events(path, dataset, time_unit, columns, latest, bad_rows)
    named = frame.with_columns(pl.col("item").fill_null("")).filter(pl.col("item") != "")
    users = frame.select("user").unique(maintain_order=True).with_row_index("number")
    named = named.join(users, on="user", how="left", maintain_order="left")
    clock = ["time", "fraction"] if "time" in named.columns else []
    named = named.sort("number", *clock, maintain_order=True)
    item = dataset.lookup_items(named["item"].to_list(), named["domain"].to_list())
    domains, kinds = dataset.manifest.domains, dataset.manifest.event_types
    lengths = np.bincount(named["number"].to_numpy(), minlength=len(users))
    histories = Histories(
        offsets=from_lengths(lengths),
        item=item,
        domain=_codes(named["domain"], domains),
        event=_codes(named["event"], kinds),
        time=named["time"].to_numpy() if "time" in named.columns else None,
    )
    unknown = int((item == UNKNOWN_ITEM).sum())
    history = np.repeat(np.arange(len(users))[:, None], len(domains), axis=1)
    left_out = bad_rows.by_reason() if bad_rows is not None else {}
    return Users(users["user"].to_list(), histories, history, left_out | {"unknown items": unknown})


def _codes(names: pl.Series, known: tuple[str, ...]) -> Int32[np.ndarray, "N"]:
    code = names.replace_strict({name: code for code, name in enumerate(known)}, return_dtype=pl.Int32)
    return code.to_numpy()


def known_items(histories: Histories) -> Csr:
    """The items of every history that the catalogue has, sorted, without repetition."""
    every = Csr(np.asarray(histories.offsets, np.int64), np.asarray(histories.item))
    return every.keep(every.values > UNKNOWN_ITEM).unique()
