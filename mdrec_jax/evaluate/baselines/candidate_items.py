"""The items that compete in a domain: the training events about them, which baselines learn from, and the ranks by
their scores. numpy alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64

from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.baselines import item_item
from mdrec_jax.evaluate.baselines.item_item import Sequences, Square
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, Some
from mdrec_jax.evaluate.protocol import Ties
from mdrec_jax.evaluate.ranks import rank_from_counts

TIE_BREAK = 1e-6
"""The share of popularity in every score."""
FAINT = 1e-3
"""A history's items of less weight are left out."""


@dataclass(frozen=True)
class CandidateItems:
    """W items, ascending, and the N training events of whatever domain that are about one of them."""

    dataset: Dataset
    items: Int32[np.ndarray, "W"]
    column: Int64[np.ndarray, "N"]
    """Each event's item, as its place in `items`."""
    sequence: Int64[np.ndarray, "N"]
    time: Int64[np.ndarray, "N"]
    _matrices: dict[str, tuple[object, Square]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, eval_set: EvaluationSet, domain: int) -> "CandidateItems":
        dataset, items = eval_set.dataset, eval_set.universe(domain)
        if eval_set.fixed is not None:  # a file may list items of other domains
            items = np.union1d(items, eval_set.fixed.lists.values).astype(np.int32)
        event = np.flatnonzero(plain(dataset.role) == ROLE_TRAIN)
        event = event[np.isin(plain(dataset.item)[event], items)]
        return cls(
            dataset=dataset,
            items=items,
            column=np.searchsorted(items, plain(dataset.item)[event]),
            sequence=np.searchsorted(plain(dataset.sequence_offsets), event, side="right"),
            time=plain(dataset.time)[event].astype(np.int64),
        )

    @cached_property
    def place(self) -> Int32[np.ndarray, "V"]:
        """The column of every item of the catalogue; -1 where it does not compete."""
        place = np.full(self.dataset.num_items, -1, np.int32)
        place[self.items] = np.arange(len(self.items))
        return place

    @cached_property
    def popularity(self) -> Int64[np.ndarray, "W"]:
        return np.bincount(self.column, minlength=len(self.items))

    @cached_property
    def tie_break(self) -> Float32[np.ndarray, "W"]:
        return (TIE_BREAK * self.popularity / self.popularity.max(initial=1)).astype(np.float32)

    @cached_property
    def known(self) -> Int64[np.ndarray, "U"]:
        """The columns that matrices have: what training has at all, and of that the most frequent."""
        order = np.argsort(-self.popularity, kind="stable")[: item_item.LARGEST]
        return np.sort(order[self.popularity[order] > 0])

    @property
    def left_out(self) -> int:
        """Items that occur in training and are in no matrix."""
        return int((self.popularity > 0).sum()) - len(self.known)

    @cached_property
    def number(self) -> Int64[np.ndarray, "W"]:
        """Each column's number in matrices; -1 where it has none."""
        number = np.full(len(self.items), -1, np.int64)
        number[self.known] = np.arange(len(self.known))
        return number

    @cached_property
    def events(self) -> Sequences:
        number = self.number[self.column]
        there = number >= 0
        return Sequences(number[there], self.sequence[there], len(self.known))

    @cached_property
    def together(self) -> tuple[Square, Float32[np.ndarray, "U"]]:
        return item_item.together(self.events)

    def matrix(self, name: str, settings: object, make: Callable[[], Square]) -> Square:
        """A method's matrix under some settings; the last one of every method is kept."""
        if name not in self._matrices or self._matrices[name][0] != settings:
            self._matrices.pop(name, None)
            self._matrices[name] = (settings, make())
        return self._matrices[name][1]

    @cached_property
    def alone(self) -> Int64[np.ndarray, "U"]:
        return self.events.alone()

    def scores(
        self, eval_set: EvaluationSet, some: Some, matrix: Square, decay: float, then: Square | None = None
    ) -> Float32[np.ndarray, "B W"]:
        """The scores of some queries by a matrix (and by the one that it is followed by), the items of their histories
        weighed by `item_item.recency`."""
        places = Csr(*eval_set.queries.history_places(some))
        column = self.place[plain(self.dataset.item)[places.values]]
        number = np.where(column >= 0, self.number[column], -1)
        own = Csr(places.offsets, number).keep(number >= 0)
        back = np.repeat(own.offsets[1:], own.lengths) - 1 - np.arange(len(own.values))
        weight = item_item.recency(back, decay).astype(np.float32)
        found = np.empty((len(some), len(self.known)), np.float32)
        for query in range(len(some)):
            part = slice(own.offsets[query], own.offsets[query + 1])
            loud = weight[part] > FAINT
            found[query] = weight[part][loud] @ matrix[own.values[part][loud]]
        out = np.tile(self.tie_break, (len(some), 1))
        out[:, self.known] += found if then is None else found @ then
        return out


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
