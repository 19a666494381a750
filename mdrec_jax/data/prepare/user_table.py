"""The users of a dataset and the sequences that belong to them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int32

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import append_ids, hash_strings
from mdrec_jax.data.prepare.ingest import Events, Vocabulary
from mdrec_jax.errors import InputError


@dataclass(frozen=True)
class People:
    """Every user and sequence of a log, ranked before anything is filtered.

    Args:
        raw: raw user ids by rank: those of the parent by their old number, then new ones in seeded order.
        known: how many of them the parent has.
        user_rank: the rank of each user code.
        sequence_rank: the place of each sequence code: by user, then in seeded order.
    """

    raw: pl.Series
    known: int
    user_rank: Int32[np.ndarray, " U"]
    sequence_rank: Int32[np.ndarray, " S"]


def rank_people(events: Events, vocabulary: Vocabulary, parent: Dataset | None, seed: int) -> People:
    """Ranks users and sequences.

    Raises:
        InputError: a sequence has events of two users.
    """
    known = parent.users().with_row_index("id") if parent else None
    codes = vocabulary.users.to_frame("raw").with_row_index("code")
    numbered = append_ids(codes.select("raw"), ["raw"], known, 0, seed)
    user_rank = codes.join(numbered, on="raw", maintain_order="left")["id"].to_numpy()
    sequence_rank = user_rank
    if vocabulary.sequences is not None:
        sequence_rank = _rank_sequences(events, vocabulary.sequences, user_rank, seed)
    return People(
        raw=numbered["raw"],
        known=len(known) if known is not None else 0,
        user_rank=user_rank,
        sequence_rank=sequence_rank,
    )


def _rank_sequences(
    events: Events, sequences: pl.Series, user_rank: Int32[np.ndarray, " U"], seed: int
) -> Int32[np.ndarray, " S"]:
    owner = np.zeros(len(sequences), np.int64)
    owner[events.sequence] = events.user
    other = owner[events.sequence] != events.user
    if other.any():
        row = int(events.order[np.argmax(other)]) + 1
        raise InputError("a sequence has events of two users", row=row, column="sequence", expected="one user")
    frame = pl.DataFrame({"user": user_rank[owner], "hash": hash_strings(sequences, seed), "raw": sequences})
    place = frame.with_row_index("code").sort("user", "hash", "raw")["code"].to_numpy()
    rank = np.empty(len(place), np.int32)
    rank[place] = np.arange(len(place), dtype=np.int32)
    return rank


def number_users(people: People, user: np.ndarray) -> tuple[Int32[np.ndarray, " N"], pl.DataFrame]:
    """Final user numbers once filters are done: users that have no event left and are not known get none.

    Args:
        people: the ranks.
        user: user code of each event that is left (or of each sequence).

    Returns:
        (number by rank, -1 for users without one; the user table: raw).
    """
    stays = np.zeros(len(people.raw), bool)
    stays[: people.known] = True
    stays[people.user_rank[user]] = True
    number = np.where(stays, np.cumsum(stays) - 1, -1).astype(np.int32)
    return number, people.raw.filter(pl.Series(stays)).to_frame("raw")
