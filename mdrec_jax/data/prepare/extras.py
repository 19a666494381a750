"""Item features and fixed candidates: what a source brings beside events, with raw ids turned into ids."""

import re
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_features(
    folder: Path, log: RawLog, ids: pl.DataFrame, domains: tuple[str, ...], num_items: int, items_across: str
) -> dict[str, int]:
    """Writes `folder`/<name>.npy [FIRST_ITEM + num_items, F] and <name>.present; rows of other items are zeros.

    Args:
        ids: the catalogue's domain, raw, id.

    Returns:
        Rows that belong to no item, by reason.

    Raises:
        InputError: ids and rows differ in number, or a row holds NaN or infinity.
    """
    dropped = {}
    named = ids.join(
        pl.DataFrame({"domain": range(len(domains)), "name": domains}, schema={"domain": pl.Int32, "name": pl.String}),
        on="domain",
    )
    separate = items_across == "separate" and len(domains) > 1
    key = pl.concat_str("name", pl.lit("\t"), "raw") if separate else pl.col("raw")
    known = named.select(key.alias("key"), "id").unique("key")
    for name, (raw, rows) in log.features.items():
        _check_name(name)
        if rows.ndim != 2 or len(raw) != len(rows):
            raise InputError(
                f"feature '{name}' does not fit its items", found=f"{rows.shape} rows", expected=f"[{len(raw)}, F]"
            )
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"feature '{name}' holds NaN or infinity", row=row + 1, found=raw[row], expected="numbers")
        asked = pl.DataFrame({"key": raw}, schema={"key": pl.String}).with_row_index("row")
        place = asked.join(known, on="key").sort("row")
        table = np.zeros((FIRST_ITEM + num_items, rows.shape[1]), rows.dtype)
        present = np.zeros(len(table), bool)
        table[place["id"].to_numpy()] = rows[place["row"].to_numpy()]
        present[place["id"].to_numpy()] = True
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", table)
        with (folder / f"{name}.present").open("wb") as file:
            np.save(file, present)
        if len(place) < len(raw):
            dropped[f"rows of feature '{name}' without an item"] = len(raw) - len(place)
    return dropped


def write_candidates(
    folder: Path,
    log: RawLog,
    ids: pl.DataFrame,
    sequences: pl.DataFrame,
    domains: tuple[str, ...],
) -> dict[str, int]:
    """Writes `folder`/<name>.parquet: sequence Int64, domain String, negatives List[Int32].

    Args:
        ids: the catalogue's domain, raw, id.
        sequences: raw String, index Int64 of the sequences that are left.

    Returns:
        What could not be placed, by reason.

    Raises:
        InputError: candidates of a domain that is not known.
    """
    dropped = {}
    names = pl.DataFrame(
        {"domain": range(len(domains)), "name": domains}, schema={"domain": pl.Int32, "name": pl.String}
    )
    known = ids.join(names, on="domain").select("name", "raw", "id")
    for name, frame in log.candidates.items():
        _check_name(name)
        strange = frame.filter(~pl.col("domain").is_in(list(domains)))["domain"]
        if len(strange):
            raise InputError(
                f"candidates '{name}' of an unknown domain", found=strange[0], expected="one of " + ", ".join(domains)
            )
        placed = frame.join(sequences, left_on="sequence", right_on="raw", maintain_order="left")
        long = placed.select("index", "domain", "negatives").with_row_index("row").explode("negatives")
        long = long.join(
            known, left_on=["domain", "negatives"], right_on=["name", "raw"], how="left", maintain_order="left"
        )
        lost = long["id"].null_count()
        lists = long.filter(pl.col("id").is_not_null()).group_by("row", "index", "domain", maintain_order=True)
        result = lists.agg(negatives=pl.col("id")).sort("index", "domain")
        folder.mkdir(exist_ok=True)
        result.select(pl.col("index").cast(pl.Int64).alias("sequence"), "domain", "negatives").write_parquet(
            folder / f"{name}.parquet"
        )
        if len(placed) < len(frame):
            dropped[f"rows of candidates '{name}' without a sequence"] = len(frame) - len(placed)
        if lost:
            dropped[f"items of candidates '{name}' outside the catalogue"] = lost
    return dropped


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError("not a name for a feature or candidates", found=name, expected="letters, digits, _ . -")
