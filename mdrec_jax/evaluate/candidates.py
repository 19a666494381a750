"""The items that a target competes with under a sampled protocol: drawn, or listed by a file.

Draw number r of query q is a function of (seed, r, q, the universe, what is excluded), never of how queries are put
into blocks: a counter goes through the finaliser of SplitMix64 (Steele, Lea, Flood 2014). A file's lists are the same
in every evaluation: what exact reruns of published tables need.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int32, Int64, UInt64

from mdrec_jax.data.csr import Csr, among, from_lengths, spans
from mdrec_jax.data.ids import FIRST_ITEM, combine, splitmix
from mdrec_jax.errors import InputError

SMALL_UNIVERSE = 4
"""Without replacement, a universe of up to this many times the items wanted is shuffled instead of drawn from."""


def draw(
    universe: Int32[np.ndarray, "U"],
    excluded: Csr,
    query: Int[np.ndarray, "B"],
    negatives: int,
    *,
    replacement: bool,
    seed: int,
    number: int = 0,
) -> Int32[np.ndarray, "B N"]:
    """`negatives` items of the universe for each query, uniform over those that the query does not exclude.

    Args:
        universe: sorted item ids.
        excluded: for each query, sorted ids without repetition.
        query: the queries' indices in their split; with `seed` and `number` they are the whole state.
        negatives: items a query.
        replacement: whether an item may be drawn twice.
        seed, number: of the draw.

    Raises:
        InputError: a query that excludes so much that the items do not suffice.
    """
    barred = check_enough(universe, excluded, 1 if replacement else negatives)
    key = combine(combine(np.array([seed], np.uint64), np.array([number], np.uint64)), query.astype(np.uint64))
    if not replacement and len(universe) <= SMALL_UNIVERSE * negatives:
        return universe[_shuffled(len(universe), barred, key, negatives)]
    return universe[_rejected(len(universe), barred, key, negatives, replacement)]


def check_enough(universe: Int32[np.ndarray, "U"], excluded: Csr, wanted: int) -> Csr:
    """The places in the universe of what each query excludes.

    Raises:
        InputError: a query is left with fewer items than are wanted.
    """
    barred = _inside(universe, excluded)
    left = len(universe) - barred.lengths
    if len(left) and left.min() < wanted:
        raise InputError(
            "too few items to draw negatives from",
            found=f"{int(left.min())} items for a query, in a universe of {len(universe)}",
            expected=f"at least {wanted}",
            hint="draw fewer negatives (uniformN), or rank all items (full)",
        )
    return barred


def _inside(universe: Int32[np.ndarray, "U"], excluded: Csr) -> Csr:
    """The places in the universe of the excluded items that are in it."""
    place = np.searchsorted(universe, excluded.values)
    there = universe[np.minimum(place, len(universe) - 1)] == excluded.values
    return Csr(excluded.offsets, place).keep(there)


def _numbers(key: UInt64[np.ndarray, "B"], low: int, high: int) -> UInt64[np.ndarray, "B N"]:
    """Numbers low .. high - 1 of each key's stream."""
    return splitmix(key[:, None] + np.arange(low, high, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))


def _shuffled(size: int, barred: Csr, key: UInt64[np.ndarray, "B"], negatives: int) -> Int64[np.ndarray, "B N"]:
    """The places whose numbers are the smallest: a uniform choice without replacement."""
    order = _numbers(key, 0, size) >> np.uint64(1)
    order[barred.owner, barred.values] = np.iinfo(np.uint64).max
    chosen = np.argpartition(order, negatives - 1, axis=1)[:, :negatives]
    return np.sort(chosen, axis=1)


def _rejected(
    size: int, barred: Csr, key: UInt64[np.ndarray, "B"], negatives: int, replacement: bool
) -> Int64[np.ndarray, "B N"]:
    """The first acceptable numbers of every query's stream, as many as are wanted."""
    out = np.empty((len(key), negatives), np.int64)
    bars = barred.owner * size + barred.values
    waiting, length = np.arange(len(key)), negatives + max(8, negatives // 8)
    while len(waiting):
        place = ((_numbers(key[waiting], 0, length) >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(
            np.int64
        )
        good = ~among(waiting[:, None] * size + place, bars)
        if not replacement:
            good &= _first_of_its_kind(place)
        count = np.cumsum(good, axis=1)
        done = count[:, -1] >= negatives
        chosen = good & (count <= negatives) & done[:, None]
        out[waiting[done]] = place[chosen].reshape(-1, negatives)
        waiting, length = waiting[~done], 2 * length
    return out


def _first_of_its_kind(place: Int64[np.ndarray, "B N"]) -> Bool[np.ndarray, "B N"]:
    """True where no earlier column of the row holds the same number."""
    width = place.shape[1]
    # The column in the low digits makes one plain sort do the work of a stable argsort.
    keys = np.sort(place * width + np.arange(width), axis=1)
    value, column = np.divmod(keys, width)
    first = np.ones(place.shape, bool)
    first[:, 1:] = value[:, 1:] != value[:, :-1]
    out = np.empty(place.shape, bool)
    np.put_along_axis(out, column, first, axis=1)
    return out


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
