"""Counts of which item follows which, and the ranks that they give without any learning.

`M[i, j]` adds 1/k for every j that stands k places after i in a training sequence, k = 1 .. 5. The score of j after a
history is the sum over its last five items i_0, i_1, .. (the latest first) of

    M[i_k, j] / (sum_j M[i_k, j] + 5) / (k + 1)

plus the item's base score, which breaks ties and ranks what no transition reaches. M is sparse, and so is the work: an
item that no transition reaches is counted by a binary search among the sorted base scores, so a query costs what its
five rows of M hold, however large the catalogue.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from mdrec_jax.data.csr import Csr, among, from_lengths, spans
from mdrec_jax.data.ids import FIRST_ITEM

STEPS = 5
SMOOTHING = 5.0
SHARES = 2520
"""1/k for k = 1 .. 10 in whole parts: sums are exact, and equal counts tie whatever their order."""


@dataclass(frozen=True)
class TransitionCounts:
    """M by rows: row i holds `value[e]` in column `item[e]` for e in offsets[i] .. offsets[i + 1] - 1."""

    offsets: Int64[np.ndarray, "V+1"]
    item: Int32[np.ndarray, "E"]
    value: Float64[np.ndarray, "E"]
    total: Float64[np.ndarray, "V"]
    """The sum of every row."""


def count_transitions(
    item: Int[np.ndarray, "N"], sequence: Int[np.ndarray, "N"], num_items: int, steps: int = STEPS
) -> TransitionCounts:
    """M of events that lie in order, those of one sequence one behind the other. An unknown item takes its place in
    the sequence and counts for nothing. `steps`, up to 10, is how far an item may stand behind the other."""
    known = item >= FIRST_ITEM
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for step in range(1, steps + 1):
        together = (sequence[step:] == sequence[:-step]) & known[step:] & known[:-step]
        pairs = item[:-step][together].astype(np.int64) * num_items + item[step:][together]
        new, times = np.unique(pairs, return_counts=True)
        keys, counts = _merge(keys, counts, new, times * (SHARES // step))
    row, column = np.divmod(keys, num_items)
    value = counts / SHARES
    offsets = from_lengths(np.bincount(row, minlength=num_items))
    total = np.bincount(row, counts, minlength=num_items) / SHARES
    return TransitionCounts(offsets, column.astype(np.int32), value, total)


def _merge(
    keys: Int64[np.ndarray, "A"],
    counts: Int64[np.ndarray, "A"],
    new: Int64[np.ndarray, "B"],
    add: Int64[np.ndarray, "B"],
) -> tuple[Int64[np.ndarray, "E"], Int64[np.ndarray, "E"]]:
    """Two sorted lists of keys without repetition, with the counts of equal keys added."""
    joined = np.concatenate([keys, new])
    order = np.argsort(joined, kind="stable")
    joined, both = joined[order], np.concatenate([counts, add])[order]
    first = np.flatnonzero(np.diff(joined, prepend=-1) != 0)
    return joined[first], np.add.reduceat(both, first) if len(first) else both


@dataclass(frozen=True)
class Reached:
    """The scores that transitions give in a block of queries; key = query * V + item, sorted."""

    key: Int64[np.ndarray, "E"]
    score: Float64[np.ndarray, "E"]

    def of(self, key: Int64[np.ndarray, "*K"]) -> Float64[np.ndarray, "*K"]:
        """The scores of any keys: 0 where no transition leads."""
        if not len(self.key):
            return np.zeros(key.shape)
        place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        return np.where(self.key[place] == key, self.score[place], 0.0)


NOTHING_REACHED = Reached(np.zeros(0, np.int64), np.zeros(0))


def reach(counts: TransitionCounts, recent: Int32[np.ndarray, "B K"], smoothing: float = SMOOTHING) -> Reached:
    """The scores from the latest items of every query's history (0 = none), the latest first."""
    num_items = len(counts.total)
    starts, stops = counts.offsets[recent.ravel()], counts.offsets[recent.ravel() + 1]
    taken = spans(starts, np.where(recent.ravel() > 0, stops, starts))
    query, back = np.divmod(taken.owner, recent.shape[1])
    source = recent.ravel()[taken.owner]
    key = query * num_items + counts.item[taken.values]
    part = counts.value[taken.values] / (counts.total[source] + smoothing) / (back + 1)
    order = np.argsort(key, kind="stable")
    key, part = key[order], part[order]
    first = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    return Reached(key[first], np.add.reduceat(part, first) if len(first) else part)


@dataclass(frozen=True)
class BaseScores:
    """The scores of items whatever the history, and the items that compete."""

    score: Float64[np.ndarray, "V"]
    inside: Bool[np.ndarray, "V"]
    """The universe: the items that a target is ranked among."""
    ordered: Float64[np.ndarray, "U"]
    """The universe's scores, sorted."""


def base_scores(score: Float64[np.ndarray, "V"], universe: Int32[np.ndarray, "U"]) -> BaseScores:
    inside = np.zeros(len(score), bool)
    inside[universe] = True
    return BaseScores(score, inside, np.sort(score[universe]))


def rank_all(
    reached: Reached, base: BaseScores, target: Int32[np.ndarray, "B"], seen: Csr
) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
    """How many items of the universe score above the target, and how many others the same.

    Args:
        reached: the block's scores.
        base: scores and universe.
        target: each query's target, never left out.
        seen: items left out of each query, in any order.
    """
    num_items, queries = len(base.score), np.arange(len(target))
    mark = base.score[target] + reached.of(queries * num_items + target)
    below = np.searchsorted(base.ordered, mark, side="left")
    upto = np.searchsorted(base.ordered, mark, side="right")
    higher, equal = len(base.ordered) - upto, upto - below

    out = np.unique(np.concatenate([seen.owner * num_items + seen.values, queries * num_items + target]))
    out = out[base.inside[out % num_items]]
    inside = base.inside[reached.key % num_items]
    key, extra = reached.key[inside], reached.score[inside]
    rest = out[~among(out, key)]  # left out, and reached by no transition

    def add(keys: Int64[np.ndarray, "K"], score: Float64[np.ndarray, "K"], sign: int) -> None:
        nonlocal higher, equal
        query = keys // num_items
        higher = higher + sign * np.bincount(query[score > mark[query]], minlength=len(target))
        equal = equal + sign * np.bincount(query[score == mark[query]], minlength=len(target))

    # The binary search saw every item with its base score; take those out that score otherwise or do not compete.
    add(rest, base.score[rest % num_items], -1)
    add(key, base.score[key % num_items], -1)
    stays = ~among(key, out)
    add(key[stays], base.score[key[stays] % num_items] + extra[stays], +1)
    return higher, equal


def rank_among(
    reached: Reached, base: BaseScores, target: Int32[np.ndarray, "B"], candidates: Int32[np.ndarray, "B N"]
) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
    """The same among given candidates (0 = none; the target itself does not count)."""
    num_items, queries = len(base.score), np.arange(len(target))
    mark = base.score[target] + reached.of(queries * num_items + target)
    score = base.score[candidates] + reached.of(queries[:, None] * num_items + candidates)
    counts = (candidates != 0) & (candidates != target[:, None])
    return (counts & (score > mark[:, None])).sum(1), (counts & (score == mark[:, None])).sum(1)
