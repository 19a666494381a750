"""A bonus on a model's scores by co-occurrence counts that are directed (what followed) and distance-weighted.

    score(v) = h . v + weight * log(1 + t(v) / .01)

The counts hold the pairs of a training log that no model of few numbers an item can hold. t(v) is the score of v by
them (`baselines/transitions.py`), 0 for all items but those that followed one of the last five somewhere in training.
Nothing is learned, and what is added is never negative. (A parametric model interpolated with a memory of what it was
trained on: Khandelwal et al. 2020, arXiv 1911.00172, eq. 3, there on probabilities. That neighbours beat trained models
on sparse logs: Ludewig & Jannach 2018, arXiv 1803.09587.)

The counts are the log itself: what is published or sent elsewhere with a run must not hold them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.errors import ConfigError
from mdrec_jax.evaluate.baselines.transitions import Reached, TransitionCounts, reach

LEAST = 0.01
"""The transition score at which the logarithm starts to grow."""
ENTRIES = 1 << 22
"""Items with a bonus, of all queries of a block, each as many as the one with the most."""


@dataclass(frozen=True)
class CooccurrenceConfig:
    """
    Args:
        weight: of the bonus; 0 = the model alone. To be chosen on the validation split.
    """

    weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError("out of range", column="cooccurrence.weight", found=self.weight, expected=">= 0")


@dataclass(frozen=True)
class Cooccurrence:
    """The bonus by the transition counts of a training log. V items."""

    counts: TransitionCounts
    config: CooccurrenceConfig

    def bonus(self, recent: Int32[np.ndarray, "B K"]) -> Reached:
        """The bonus of queries whose latest items are `recent` (0 = none), the latest first."""
        found = reach(self.counts, recent)
        return Reached(found.key, self.config.weight * np.log1p(found.score / LEAST))

    def blocks(self, recent: Int32[np.ndarray, "B K"], size: int) -> Iterator[slice]:
        """The queries in blocks of at most `size`, smaller where their latest items were followed by many others."""
        most = (self.counts.offsets[recent + 1] - self.counts.offsets[recent]).sum(1, where=recent > 0)
        begin, widest = 0, 0
        for end, entries in enumerate(most.tolist()):
            widest = max(widest, entries)
            if end > begin and (end - begin >= size or (end - begin + 1) * widest > ENTRIES):
                yield slice(begin, end)
                begin, widest = end, entries
        if len(most) > begin:
            yield slice(begin, len(most))

    def at(self, bonus: Reached, items: Int[np.ndarray, "B N"]) -> Float32[np.ndarray, "B N"]:
        """The bonus of given items of each query."""
        return bonus.of(np.arange(len(items))[:, None] * len(self.counts.total) + items).astype(np.float32)

    def lists(
        self, bonus: Reached, place: Int32[np.ndarray, "V"], queries: int
    ) -> tuple[Csr, Float32[np.ndarray, "E"]]:
        """Each query's items with a bonus, by their `place` where they have one, and the bonus."""
        query, item = np.divmod(bonus.key, len(self.counts.total))
        there = place[item] > 0
        offsets = from_lengths(np.bincount(query[there], minlength=queries))
        return Csr(offsets, place[item[there]]), bonus.score[there].astype(np.float32)
