"""The queries of a split, and what each leaves out of its ranking and competes with, as the protocol says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64

from mdrec_jax.data.batching.queries import QueryList, query_list
from mdrec_jax.data.batching.streams import ROLE_TEST, ROLE_TRAIN, plain
from mdrec_jax.data.csr import Csr, spans, with_one
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.candidates import FixedCandidates, candidates_file, check_enough, draw, read_candidates
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import Ranks

DAY = 24 * 3600
NOT_LISTED = "queries without candidates in the file"
LEFT_OUT = "queries left out: more than were wanted"
"""Why queries of the split are left out."""

type Some = Int64[np.ndarray, "B"]
"""Indices of queries."""


@dataclass(frozen=True)
class EvaluationSet:
    """The queries of a data set under a protocol. Use `evaluation_set`."""

    dataset: Dataset
    protocol: Protocol
    queries: QueryList
    """The split's, or those of them that can be ranked."""
    number: Int64[np.ndarray, "Q"]
    """The place of each in the split's whole list: it seeds draws and names the query in `Ranks`."""
    fixed: FixedCandidates | None
    counts: dict[str, int]
    """How many queries of the split are left out, by reason."""

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def train_counts(self) -> Int64[np.ndarray, "V"]:
        """How often each item occurs in training; the unknown item counts for nothing."""
        return item_counts(self.dataset, plain(self.dataset.role) == ROLE_TRAIN)

    def universe(self, domain: int) -> Int32[np.ndarray, "U"]:
        """The items that a target of the domain is ranked among, ascending."""
        if self.protocol.universe == "target_domain":
            return plain(self.dataset.domain_items[domain])
        return self._all_items

    @cached_property
    def _all_items(self) -> Int32[np.ndarray, "U"]:
        return np.unique(np.concatenate(self.dataset.domain_items))

    def domains(self) -> list[int]:
        """The domains of the queries, ascending."""
        return np.unique(self.queries.domain).tolist()

    def blocks(self, domain: int, size: int) -> Iterator[Some]:
        """The queries of a domain, `size` at a time, short histories first."""
        mine = np.flatnonzero(self.queries.domain == domain)
        mine = mine[np.argsort(self.queries.history_length[mine], kind="stable")]
        for low in range(0, len(mine), size):
            yield mine[low : low + size]

    def seen(self, some: Some) -> Csr:
        """The items that leave a full ranking: sorted, without repetition, never a query's target."""
        if self.protocol.seen == "none":
            return Csr(np.zeros(len(some) + 1, np.int64), np.zeros(0, np.int32))
        seen = Csr(*self.queries.seen_items(some, train_only=self.protocol.seen == "train")).unique()
        return seen.keep((seen.values >= FIRST_ITEM) & (seen.values != self.queries.target[some][seen.owner]))

    def latest(self, some: Some, count: int) -> Int32[np.ndarray, "B K"]:
        """The last items of the visible histories, the latest first; 0 where a history is shorter."""
        places = Csr(*self.queries.history_places(some, last=count))
        return Csr(places.offsets, plain(self.dataset.item)[places.values]).last(count)

    def candidates(self, some: Some, number: int) -> Int32[np.ndarray, "B N"]:
        """The items of a sampled protocol, 0 behind a shorter list; `number` is that of the draw."""
        protocol = self.protocol
        if self.fixed is not None:
            return self.fixed.find(self.queries.sequence[some], self.queries.domain[some])[0].padded()
        out = np.zeros((len(some), protocol.negatives), np.int32)
        domain = self.queries.domain[some]
        for one in np.unique(domain):
            at = np.flatnonzero(domain == one)
            out[at] = draw(
                self.universe(int(one)),
                self._excluded(some[at]),
                self.number[some[at]],
                protocol.negatives,
                replacement=protocol.replacement,
                seed=protocol.seed,
                number=number,
            )
        return out

    def check_candidates(self) -> None:
        """Refuses a sampled protocol for which a domain has too few items, before any is drawn. Raises InputError."""
        if self.protocol.candidates != "uniform":
            return
        wanted = 1 if self.protocol.replacement else self.protocol.negatives
        lengths = np.diff(plain(self.dataset.sequence_offsets))[self.queries.sequence]
        for domain in self.domains():
            universe = self.universe(domain)
            # No query excludes more than its sequence and its target.
            close = (self.queries.domain == domain) & (lengths + 1 > len(universe) - wanted)
            check_enough(universe, self._excluded(np.flatnonzero(close)), wanted)

    def _excluded(self, some: Some) -> Csr:
        """What is never drawn for a query, sorted, without repetition: its target, and what the protocol says. What a
        validation query leaves out does not hang on test events."""
        none = Csr(np.zeros(len(some) + 1, np.int64), np.zeros(0, np.int32))
        if self.protocol.exclude == "sequence":
            sequence, offsets = self.queries.sequence[some], plain(self.dataset.sequence_offsets)
            events = spans(offsets[sequence], offsets[sequence + 1])
            if self.protocol.split == "validation":
                events = events.keep(plain(self.dataset.role)[events.values] != ROLE_TEST)
            none = Csr(events.offsets, plain(self.dataset.item)[events.values])
        elif self.protocol.exclude == "history":
            none = Csr(*self.queries.seen_items(some))
        return with_one(none, self.queries.target[some]).unique()

    def _days(self, some: Some) -> Int32[np.ndarray, "B"]:
        """As in `Ranks`."""
        queries = self.queries
        known = queries.history_end[some] > queries.history_begin[some]
        if not self.dataset.manifest.has_time or not known.any():
            return np.full(len(some), -1, np.int32)
        last = queries.visible[np.maximum(queries.history_end[some] - 1, 0)]
        days = queries.time[some] // DAY - plain(self.dataset.time)[last] // DAY
        return np.where(known, days, -1).astype(np.int32)

    def ranks(self, some: Some, rank: Float[np.ndarray, "B N"]) -> Ranks:
        """The ranks of some queries with what is known about them."""
        queries, question = self.queries, self.number[some]
        if not self.dataset.manifest.ordered:
            # Without an order, all of a user's held-out items are one question.
            pairs = queries.sequence.astype(np.int64) * self.dataset.num_domains + queries.domain
            question = pairs[some]
        return Ranks(
            query=self.number[some],
            question=question,
            user=queries.user[some],
            domain=queries.domain[some],
            rank=rank.astype(np.float32),
            history_length=queries.history_length[some].astype(np.int32),
            cold=self.train_counts[queries.target[some]] == 0,
            days=self._days(some),
        )


def evaluation_set(dataset: Dataset, protocol: Protocol, *, at_most: int = 0) -> EvaluationSet:
    """The queries of the protocol's split.

    Args:
        at_most: no more than so many, the same ones each time; 0 = all.

    Raises:
        InputError: the split has no target, a domain has too few items to draw from, or the file of candidates does
            not exist, does not fit, or lists nothing.
    """
    queries, fixed, counts = query_list(dataset, protocol.split), None, {}
    number = np.arange(len(queries))
    if protocol.candidates == "fixed":
        path = candidates_file(dataset.path, protocol.file or "")
        fixed = read_candidates(path, tuple(dataset.manifest.domains), dataset.num_items)
        number = np.flatnonzero(fixed.find(queries.sequence, queries.domain)[1])
        if not len(number):
            raise InputError(f"the file lists candidates for no {protocol.split} query of this data set", file=path)
        if len(number) < len(queries):
            counts[NOT_LISTED] = len(queries) - len(number)
    if 0 < at_most < len(number):
        counts[LEFT_OUT] = len(number) - at_most
        number = np.sort(np.random.default_rng(0).choice(number, at_most, replace=False))
    eval_set = EvaluationSet(dataset, protocol, _part(queries, number), number, fixed, counts)
    eval_set.check_candidates()
    return eval_set


def _part(queries: QueryList, chosen: Some) -> QueryList:
    """Some of the queries, ascending."""
    if len(chosen) == len(queries):
        return queries
    arrays = ("place", "sequence", "user", "domain", "target", "time", "history_begin", "history_end")
    return replace(queries, **{name: getattr(queries, name)[chosen] for name in arrays})


def item_counts(dataset: Dataset, chosen: Bool[np.ndarray, "N"]) -> Int64[np.ndarray, "V"]:
    """How often each item occurs in the chosen events; the unknown item counts for nothing."""
    counts = np.bincount(plain(dataset.item)[chosen], minlength=dataset.num_items)
    counts[:FIRST_ITEM] = 0
    return counts
