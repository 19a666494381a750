"""Drawing the items that a target competes with under a sampled protocol.

Draw number r of query q is a function of (seed, r, q, the universe, what is excluded), never of how queries are put
into blocks: a counter goes through the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
"""

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, UInt64

from mdrec_jax.data.csr import Csr
from mdrec_jax.data.ids import combine, splitmix
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
        good = ~_among(waiting[:, None] * size + place, bars)
        if not replacement:
            good &= _first_of_its_kind(place)
        count = np.cumsum(good, axis=1)
        done = count[:, -1] >= negatives
        chosen = good & (count <= negatives) & done[:, None]
        out[waiting[done]] = place[chosen].reshape(-1, negatives)
        waiting, length = waiting[~done], 2 * length
    return out


def _among(values: Int64[np.ndarray, "B N"], sorted_list: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "B N"]:
    if not len(sorted_list):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(sorted_list, values), len(sorted_list) - 1)
    return sorted_list[place] == values


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
