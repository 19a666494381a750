"""The ranks that a model gave, one a query: what every metric, slice, interval and comparison is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.protocol import Ties

type Counts = Int64[np.ndarray, "Q"]


@dataclass(frozen=True)
class Ranks:
    """One entry a query; Q queries, N draws of candidates (1 unless the protocol says more).

    Queries with the same `question` are several targets of one question (data without an order); elsewhere every
    query is a question of its own.
    """

    query: Int64[np.ndarray, "Q"]
    """Index into the split's list of queries."""
    question: Int64[np.ndarray, "Q"]
    user: Int32[np.ndarray, "Q"]
    domain: Int32[np.ndarray, "Q"]
    rank: Float32[np.ndarray, "Q N"]
    """1 = best. Halves come from ties."""
    history_length: Int32[np.ndarray, "Q"]
    """Visible events before the query, in all domains."""
    cold: Bool[np.ndarray, "Q"]
    """Whether the target never occurs in training."""
    days: Int32[np.ndarray, "Q"]
    """Days (UTC) from the last visible event to the target; -1 where there is none, or no times."""

    def __len__(self) -> int:
        return len(self.query)


def rank_from_counts(higher: Counts, ties: Counts, rule: Ties) -> Float64[np.ndarray, "Q"]:
    """The rank of a target with `higher` items scored above it and `ties` other items scored equal."""
    share = {"half": 0.5, "first": 0.0, "last": 1.0}[rule]
    return 1.0 + higher + share * ties


def concatenate(parts: Sequence[Ranks]) -> Ranks:
    """Parts of one list of queries put together, in the order of the queries."""
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Ranks)}
    order = np.argsort(joined["query"], kind="stable")
    return Ranks(**{name: values[order] for name, values in joined.items()})


def save_ranks(ranks: Ranks, file: Path | BinaryIO) -> None:
    """Writes an `.npz`; the bytes depend on the ranks alone."""
    np.savez_compressed(file, allow_pickle=False, **{field.name: getattr(ranks, field.name) for field in fields(Ranks)})


def load_ranks(path: Path) -> Ranks:
    """Reads what `save_ranks` wrote.

    Raises:
        InputError: a missing file, or one that holds something else.
    """
    if not path.is_file():
        raise InputError("no such file of ranks", file=path, hint="ranks lie beside the results file they belong to")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Ranks(**{field.name: arrays[field.name] for field in fields(Ranks)})
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise InputError(
            "not a file of ranks", file=path, found=error, expected="an .npz written with results"
        ) from None
