"""MovieLens-1M, leave-one-out, as the BERT4Rec-style repositories prepare it: `dataset.pkl` and original metadata.

`dataset.pkl` holds plain containers only: `train`, `val` and `test` as `{user: [item, ...]}` in time order (one item in
`val` and `test`), and `umap`, `smap` from MovieLens' ids to the dense ones. `movies.dat` (optional) gives titles and
genres, `random-sample_size*-seed*.pkl` (optional) each user's fixed negatives. Raw ids here are MovieLens' own.

The published negatives were drawn from 1 .. number of items, while dense ids are 0 .. number of items - 1 (they avoid
the user's items under the latter numbering). The one number too many is no item: it is left out and counted.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mdrec_jax.data.sources.movielens import DOMAIN, read_movies
from mdrec_jax.data.sources.rawlog import CANDIDATE_SCHEMA, OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, one_path, require_folder
from mdrec_jax.data.sources.safe_pickle import load_plain, whole_numbers
from mdrec_jax.errors import InputError

_ROLES = {"train": 0, "val": 1, "test": 2}


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads one folder.

    Raises:
        InputError: `dataset.pkl` is missing, malformed or not made of plain containers, or another file does not fit.
    """
    options.refuse("ml1m", *OPTION_NAMES)
    folder = require_folder(one_path(paths, "the folder of dataset.pkl"), "the folder of dataset.pkl")
    path = find_in(folder, "dataset.pkl")
    files = [path]
    found = load_plain(path)
    if not isinstance(found, dict) or not {*_ROLES, "umap", "smap"} <= found.keys():
        keys = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise InputError("not the prepared MovieLens", file=path, found=keys, expected="train, val, test, umap, smap")
    users, items = (_names(path, name, found[name]) for name in ("umap", "smap"))
    parts = [_part(path, name, found[name], users, items) for name in _ROLES]
    events = pl.concat(parts).with_columns(
        pl.lit(DOMAIN).alias("domain"),
        pl.lit("rating").alias("event"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("order"),
    )
    movies = find_in(folder, "movies.dat", optional=True)
    metadata = {}
    if movies is not None:
        files.append(movies)
        metadata[DOMAIN] = read_movies(movies).filter(pl.col("item").is_in(items.tolist()))
    negatives = sorted(folder.glob("random-sample_size*-seed*.pkl"))
    if len(negatives) > 1:
        raise InputError(
            "several files of negatives", file=folder, found=[file.name for file in negatives], expected="one"
        )
    candidates, dropped = {}, {}
    if negatives:
        path = find_in(folder, negatives[0].name)
        files.append(path)
        candidates["fixed"], dropped["fixed negatives that are no item"] = _candidates(path, users, items)
    return RawLog(
        events=events.lazy(),
        has_time=False,
        ordered=True,
        files=tuple(files),
        items=metadata,
        candidates=candidates,
        dropped=dropped,
        default_split="given",
        domains=(DOMAIN,),
        event_types=("rating",),
    )


def _names(path: Path, name: str, found: Any) -> np.ndarray:
    """Dense id -> the original id as text, from a map {original: dense} whose dense ids are 0, 1, 2, ..."""
    dense = _integers(path, name, list(found.values()) if isinstance(found, dict) else found)
    if not np.array_equal(np.sort(dense), np.arange(len(dense))):
        raise InputError("ids that are not 0, 1, 2, ...", file=path, column=name, expected="a map onto dense ids")
    names = np.empty(len(dense), object)
    names[dense] = [str(original) for original in found]
    return names


def _integers(path: Path, name: str, found: Any) -> np.ndarray:
    values = whole_numbers(found)
    if values is None:
        raise InputError(
            "not whole numbers", file=path, column=name, found=type(found).__name__, expected="a list of ids"
        )
    return values


def _lists(path: Path, name: str, found: Any, num_users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, length of each user's list, all lists behind each other) of a map {user: [item, ...]}."""
    if not isinstance(found, dict) or not all(isinstance(items, list) for items in found.values()):
        raise InputError("not lists by user", file=path, column=name, expected="{user: [item, ...]}")
    users = _integers(path, name, list(found))
    if users.min() < 0 or users.max() >= num_users:
        raise InputError("an unknown user", file=path, column=name, found=f"{users.min()} to {users.max()}")
    lengths = np.array([len(items) for items in found.values()])
    return users, lengths, _integers(path, name, list(chain.from_iterable(found.values())))


def _check_items(path: Path, name: str, values: np.ndarray, num_items: int) -> None:
    if values.min() < 0 or values.max() >= num_items:
        found = f"{values.min()} to {values.max()}"
        raise InputError("an unknown item", file=path, column=name, found=found, expected=f"0 to {num_items - 1}")


def _part(path: Path, name: str, found: Any, users: np.ndarray, items: np.ndarray) -> pl.DataFrame:
    owners, lengths, values = _lists(path, name, found, len(users))
    _check_items(path, name, values, len(items))
    if name != "train" and (lengths != 1).any():
        raise InputError("not one target a user", file=path, column=name, expected="{user: [item]}")
    columns = {"user": users[np.repeat(owners, lengths)].tolist(), "item": items[values].tolist()}
    return pl.DataFrame(columns, schema={"user": pl.String, "item": pl.String}).with_columns(
        pl.lit(_ROLES[name], pl.Int8).alias("role")
    )


def _candidates(path: Path, users: np.ndarray, items: np.ndarray) -> tuple[pl.DataFrame, int]:
    """The users' fixed negatives, and how many of them were left out because they are no item."""
    owners, lengths, values = _lists(path, "negatives", load_plain(path), len(users))
    _check_items(path, "negatives", values, len(items) + 1)
    real = values < len(items)
    negatives = (
        pl.DataFrame(
            {"row": np.repeat(np.arange(len(owners)), lengths)[real], "negatives": items[values[real]].tolist()}
        )
        .group_by("row")
        .agg("negatives")
        .sort("row")
    )
    names = pl.Series(users[owners[negatives["row"].to_numpy()]].tolist(), dtype=pl.String)
    frame = negatives.select(names.alias("sequence"), pl.lit(DOMAIN).alias("domain"), "negatives")
    return frame.cast(CANDIDATE_SCHEMA), int(np.count_nonzero(~real))  # type: ignore[arg-type]
