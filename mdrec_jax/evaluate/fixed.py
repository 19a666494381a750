"""Candidates that a file lists, the same in every evaluation: what exact reruns of published tables need."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64

from mdrec_jax.data.csr import Csr, from_lengths, spans
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.errors import InputError


def candidates_file(folder: Path, name: str) -> Path:
    """The file that `fixed:NAME` means: in the data set's `candidates/` first, else a path.

    Raises:
        InputError: neither exists.
    """
    for path in (folder / "candidates" / name, folder / "candidates" / f"{name}.parquet", Path(name)):
        if path.is_file():
            return path
    known = sorted(path.stem for path in (folder / "candidates").glob("*.parquet"))
    raise InputError(
        "no such file of candidates",
        file=folder / "candidates",
        found=name,
        expected=", ".join(known) if known else "a path: the data set has no candidates of its own",
    )


@dataclass(frozen=True)
class FixedCandidates:
    """L lists of candidates, each for the queries of one sequence in one domain."""

    key: Int64[np.ndarray, "L"]
    """sequence * number of domains + domain, sorted."""
    lists: Csr
    num_domains: int

    def find(self, sequence: Int[np.ndarray, "Q"], domain: Int[np.ndarray, "Q"]) -> tuple[Csr, Bool[np.ndarray, "Q"]]:
        """Each query's candidates, and whether there is a list for it."""
        if not len(self.key):
            return Csr(np.zeros(len(sequence) + 1, np.int64), self.lists.values), np.zeros(len(sequence), bool)
        wanted = sequence.astype(np.int64) * self.num_domains + domain
        place = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        found = self.key[place] == wanted
        start = np.where(found, self.lists.offsets[place], 0)
        taken = spans(start, np.where(found, self.lists.offsets[place + 1], 0))
        return Csr(taken.offsets, self.lists.values[taken.values]), found


def read_candidates(path: Path, domains: tuple[str, ...], num_items: int) -> FixedCandidates:
    """Reads a Parquet file with columns `sequence` (index), `domain` (name), `negatives` (list of internal item ids).

    Raises:
        InputError: another kind of file, a missing column, an unknown domain, two rows for one sequence and domain, or
            an id outside the catalogue.
    """
    frame = _read(path)
    codes = {name: code for code, name in enumerate(domains)}
    strange = [name for name in frame["domain"].unique().to_list() if name not in codes]
    if strange:
        raise InputError("unknown domain", file=path, column="domain", found=strange[0], expected=", ".join(domains))
    code = frame["domain"].replace_strict(codes, return_dtype=pl.Int64).to_numpy() if len(frame) else np.zeros(0, int)
    key = frame["sequence"].to_numpy().astype(np.int64) * len(domains) + code
    order = np.argsort(key, kind="stable")
    repeated = np.flatnonzero(np.diff(key[order]) == 0)
    if len(repeated):
        raise InputError("two rows for one sequence and domain", file=path, row=int(order[repeated[0] + 1]) + 1)
    negatives = frame["negatives"].gather(order)
    lengths = negatives.list.len().to_numpy()
    flat = negatives.filter(lengths > 0).explode().to_numpy()
    lists = Csr(from_lengths(lengths), flat)
    _check_ids(lists, order, num_items, path)
    return FixedCandidates(key[order], Csr(lists.offsets, flat.astype(np.int32)), len(domains))


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError("not a Parquet file", file=path, found=error) from None
    for name in ("sequence", "domain", "negatives"):
        if name not in frame.columns:
            raise InputError("missing column", file=path, column=name, expected="sequence, domain, negatives")
    return frame


def _check_ids(lists: Csr, order: Int64[np.ndarray, "L"], num_items: int, path: Path) -> None:
    bad = np.flatnonzero((lists.values < FIRST_ITEM) | (lists.values >= num_items))
    if len(bad):
        raise InputError(
            "not an item of this data set",
            file=path,
            row=int(order[lists.owner[bad[0]]]) + 1,
            column="negatives",
            found=int(lists.values[bad[0]]),
            expected=f"{FIRST_ITEM} to {num_items - 1}",
        )
