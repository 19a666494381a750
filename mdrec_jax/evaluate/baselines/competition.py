"""Whom a block of targets competes with, as columns of a matrix of scores, and the ranks that follow. numpy alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64

from mdrec_jax.data.csr import Csr
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, Some
from mdrec_jax.evaluate.protocol import Ties
from mdrec_jax.evaluate.ranks import rank_from_counts


@dataclass(frozen=True)
class Competition:
    """B queries about W items; N candidates in each of R draws (none, and R = 1, in a full ranking)."""

    target: Int64[np.ndarray, "B"]
    left_out: Csr
    drawn: Int64[np.ndarray, "B R N"] | None
    """-1 where a list is shorter."""
    ties: Ties

    def ranks(self, scores: Float[np.ndarray, "B W"]) -> Float64[np.ndarray, "B R"]:
        """The rank of every target among those that compete."""
        rows = np.arange(len(scores))
        mark = scores[rows, self.target]
        if self.drawn is None:
            out = self.left_out
            gone, own = scores[out.owner, out.values], mark[out.owner]
            # Row by row: a whole matrix of comparisons takes several times as long to add up.
            higher = np.array([np.count_nonzero(scores[row] > mark[row]) for row in rows])
            ties = np.array([np.count_nonzero(scores[row] == mark[row]) for row in rows])
            higher = higher - np.bincount(out.owner[gone > own], minlength=len(rows))
            ties = ties - np.bincount(out.owner[gone == own], minlength=len(rows))
            return rank_from_counts(higher, ties - 1, self.ties)[:, None]
        columns = []
        for places in np.moveaxis(self.drawn, 1, 0):
            theirs, there = scores[rows[:, None], places], (places >= 0) & (places != self.target[:, None])
            higher, ties = ((there & (theirs > mark[:, None])).sum(1), (there & (theirs == mark[:, None])).sum(1))
            columns.append(rank_from_counts(higher, ties, self.ties))
        return np.stack(columns, axis=1)


def competition(eval_set: EvaluationSet, some: Some, place: Int32[np.ndarray, "V"]) -> Competition:
    """What the protocol says about some queries; item v is column `place[v]`, -1 where it never competes."""
    drawn, seen = None, Csr(np.zeros(len(some) + 1, np.int64), np.zeros(0, np.int64))
    if eval_set.protocol.sampled:
        lists = [place[eval_set.candidates(some, number)] for number in range(eval_set.protocol.draws)]
        drawn = np.stack(lists, axis=1).astype(np.int64)
    else:
        seen = eval_set.seen(some)
        seen = Csr(seen.offsets, place[seen.values].astype(np.int64))
        seen = seen.keep(seen.values >= 0)
    return Competition(place[eval_set.queries.target[some]].astype(np.int64), seen, drawn, eval_set.protocol.ties)
