"""Ids that carry no information: raw ids are ordered by a keyed hash, whatever order they came in."""

import numpy as np
import polars as pl
from jaxtyping import Int32, UInt64

PAD_ITEM, UNKNOWN_ITEM, FIRST_ITEM = 0, 1, 2
"""As in `mdrec_jax.types`, which imports jax; preparing data must start without it."""

_SLICE = 1 << 20
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def splitmix(value: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def combine(first: UInt64[np.ndarray, "*n"], second: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """One hash of two, in that order."""
    return splitmix(splitmix(first) ^ second)


def hash_strings(raw: pl.Series, seed: int) -> UInt64[np.ndarray, " n"]:
    """A 64-bit hash of each string, keyed by `seed`: the same on every machine and in every version of the libraries.

    FNV-1a over the UTF-8 bytes, all strings at once byte by byte, then `splitmix`.
    """
    key = splitmix(np.array([seed], np.uint64))[0]
    parts = [_hash_slice(raw.slice(start, _SLICE), key) for start in range(0, len(raw), _SLICE)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _hash_slice(raw: pl.Series, key: np.uint64) -> UInt64[np.ndarray, " n"]:
    length = raw.str.len_bytes().to_numpy().astype(np.int64)
    text = np.frombuffer("".join(raw.to_list()).encode(), np.uint8)
    start = np.cumsum(length) - length
    longest_first = np.argsort(-length, kind="stable")
    start, length = start[longest_first], length[longest_first]
    state = np.full(len(raw), _FNV_OFFSET ^ key, np.uint64)
    running = len(raw)
    for place in range(int(length[0]) if len(length) else 0):
        running = int(np.searchsorted(-length[:running], -place, side="left"))
        state[:running] ^= text[start[:running] + place]
        state[:running] *= _FNV_PRIME
    result = np.empty_like(state)
    result[longest_first] = splitmix(state ^ key)
    return result


def seeded_order(frame: pl.DataFrame, keys: list[str], seed: int) -> pl.DataFrame:
    """The rows of `frame` ordered by a keyed hash of their `keys` (strings); rows with equal keys do not occur."""
    hashed = hash_strings(frame[keys[0]], seed)
    for key in keys[1:]:
        hashed = combine(hashed, hash_strings(frame[key], seed))
    return frame.with_columns(pl.Series("_hash", hashed)).sort("_hash", *keys).drop("_hash")


def append_ids(frame: pl.DataFrame, keys: list[str], known: pl.DataFrame | None, first: int, seed: int) -> pl.DataFrame:
    """Gives every row an `id`: the one that `known` has for its keys, or the next free one in seeded order.

    Args:
        frame: unique rows with the string columns `keys`.
        known: the columns `keys` and `id` (all ids from `first` on, without gaps), or None.
        first: the first id.
        seed: keys the order of new ids.

    Returns:
        `keys` and `id` Int32, by ascending id: all of `known`, then what is new.
    """
    old = known if known is not None else frame.clear().select(*keys, id=pl.lit(0, pl.Int32))
    new = seeded_order(frame.select(keys).join(old, on=keys, how="anti"), keys, seed)
    new = new.with_row_index("id", offset=first + len(old)).select(*keys, pl.col("id").cast(pl.Int32))
    return pl.concat([old.select(*keys, pl.col("id").cast(pl.Int32)), new]).sort("id")


def dense_codes(key: np.ndarray, size: int) -> tuple[Int32[np.ndarray, " n"], np.ndarray]:
    """Numbers the values of `key` that occur.

    Args:
        key: non-negative integers below `size`.
        size: one more than the largest that may occur.

    Returns:
        (code of each entry, the values by ascending code).
    """
    if size > 4 * len(key) + (1 << 24):  # a table of `size` would be mostly empty
        values, code = np.unique(key, return_inverse=True)
        return code.astype(np.int32), values
    seen = np.zeros(size, bool)
    seen[key] = True
    values = np.flatnonzero(seen)
    place = np.cumsum(seen, dtype=np.int64).astype(np.int32) - np.int32(1)
    return place[key], values
