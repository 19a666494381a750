"""HR, Recall, Precision, NDCG and MRR from ranks, and the groups of questions that rows of a result are about.

A *question* is one ranking for one user. In ordered data it has one target, and Recall@k equals HR@k; in data
without an order it has all of the user's held-out items. With ranks r_1 .. r_n of a question's n targets:

    hr@k         1 if any r_i <= k
    recall@k     #{r_i <= k} / n
    precision@k  #{r_i <= k} / k
    ndcg@k       sum_{r_i <= k} 1 / log2(1 + r_i)  /  sum_{i <= min(n, k)} 1 / log2(1 + i)
    mrr          1 / min r_i;  mrr@k the same, 0 where min r_i > k
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.ranks import Ranks

DEFAULT_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "hr@50", "ndcg@5", "ndcg@10", "ndcg@20", "ndcg@50", "mrr")
"""What a result holds unless told otherwise, for questions with one target."""
MULTI_TARGET_METRICS = ("recall@10", "recall@20", "precision@20", "ndcg@10", "ndcg@20", "hr@20", "mrr")
"""The same for questions with several targets."""
HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100, 200)
"""A slice holds the histories of at least this many visible events and fewer than the next number."""


@dataclass(frozen=True)
class QuestionMetrics:
    """The metrics of each question, P of them; M metrics."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, "P M"]
    question: Int64[np.ndarray, "P"]
    user: Int32[np.ndarray, "P"]
    domain: Int32[np.ndarray, "P"]
    history_length: Int32[np.ndarray, "P"]
    cold: Bool[np.ndarray, "P"]
    """True where every target of the question is cold."""
    days: Int32[np.ndarray, "P"]
    """Of the question's first target, as in `Ranks`."""


def parse_metric(name: str) -> tuple[str, int | None]:
    """(`kind`, k) of a metric's name, e.g. `ndcg@10`; k is None for `mrr`.

    Raises:
        InputError: a name that means nothing here.
    """
    match = re.fullmatch(r"(hr|recall|precision|ndcg|mrr)(?:@([1-9]\d{0,8}))?", name)
    if match is None or (match[2] is None and match[1] != "mrr"):
        raise InputError("unknown metric", found=name, expected="hr@K, recall@K, precision@K, ndcg@K, mrr or mrr@K")
    return match[1], int(match[2]) if match[2] else None


def suitable_metrics(ordered: bool) -> tuple[str, ...]:
    """The metrics that suit a data set: with an order a question has one target, without one it may have several."""
    return DEFAULT_METRICS if ordered else MULTI_TARGET_METRICS


def question_metrics(ranks: Ranks, names: Sequence[str]) -> QuestionMetrics:
    """Metrics of each question, the mean over the protocol's draws of candidates.

    Raises:
        InputError: a name that means nothing here.
    """
    order = np.argsort(ranks.question, kind="stable")
    question, first = np.unique(ranks.question[order], return_index=True)
    values = np.zeros((len(question), len(names)))
    for one in draw_metrics(ranks, names):
        values += one / ranks.rank.shape[1]
    at = order[first]
    cold = np.minimum.reduceat(ranks.cold[order], first) if len(first) else ranks.cold[:0]
    return QuestionMetrics(
        tuple(names),
        values,
        question,
        ranks.user[at],
        ranks.domain[at],
        ranks.history_length[at],
        cold.astype(bool),
        ranks.days[at],
    )


def draw_metrics(ranks: Ranks, names: Sequence[str]) -> Iterator[Float64[np.ndarray, "P M"]]:
    """The metrics of each question under one draw of candidates after the other, in the order of `question_metrics`.

    Raises:
        InputError: a name that means nothing here.
    """
    parsed = [parse_metric(name) for name in names]
    order = np.argsort(ranks.question, kind="stable")
    _, first, targets = np.unique(ranks.question[order], return_index=True, return_counts=True)
    for draw in range(ranks.rank.shape[1]):
        rank = ranks.rank[order, draw].astype(np.float64)
        yield np.stack([_metric(kind, k, rank, first, targets) for kind, k in parsed], axis=1)


def draw_means(
    runs: Sequence[Ranks], names: Sequence[str], groups: Sequence[Bool[np.ndarray, "P"]]
) -> Float64[np.ndarray, "N C M"]:
    """The means over groups of questions, and over runs, under every draw of candidates. Raises as `draw_metrics`."""
    together = zip(*(draw_metrics(one, names) for one in runs), strict=True)
    means = [np.mean(values, axis=0) for values in together]
    return np.stack([np.stack([mean[group].mean(axis=0) for group in groups]) for mean in means])


def _metric(
    kind: str,
    k: int | None,
    rank: Float64[np.ndarray, "Q"],
    first: Int64[np.ndarray, "P"],
    targets: Int64[np.ndarray, "P"],
) -> Float64[np.ndarray, "P"]:
    """One metric of every question; the targets of question p are rank[first[p] : first[p] + targets[p]]."""
    if not len(first):
        return np.zeros(0)
    limit = np.inf if k is None else k
    hit = rank <= limit
    if kind == "hr":
        return np.logical_or.reduceat(hit, first).astype(np.float64)
    if kind == "mrr":
        return np.maximum.reduceat(np.where(hit, 1.0 / rank, 0.0), first)
    if kind == "recall":
        return np.add.reduceat(hit.astype(np.float64), first) / targets
    if kind == "precision":
        return np.add.reduceat(hit.astype(np.float64), first) / limit
    gain = np.add.reduceat(np.where(hit, 1.0 / np.log2(1.0 + rank), 0.0), first)
    best = np.cumsum(1.0 / np.log2(1.0 + np.arange(1, int(targets.max()) + 1)))
    return gain / best[np.minimum(targets, limit).astype(np.int64) - 1]


@dataclass(frozen=True)
class Group:
    """Some of the questions. `slice` is None where the row is about the whole of its domain."""

    domain: str
    slice: str | None
    member: Bool[np.ndarray, "P"]


def domain_groups(questions: QuestionMetrics, domains: Sequence[str]) -> list[Group]:
    """One group a domain that has questions (none where the data set has a single domain), and `all`."""
    everything = Group("all", None, np.ones(len(questions.question), bool))
    if len(domains) == 1:
        return [everything]
    groups = [Group(name, None, questions.domain == index) for index, name in enumerate(domains)]
    return [*(group for group in groups if group.member.any()), everything]


def span_names(edges: Sequence[int]) -> tuple[str, ...]:
    """`5-9` for the whole numbers from one edge to below the next; `200+` behind the last."""
    spans = (f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges))
    return (*spans, f"{edges[-1]}+")


def slice_groups(questions: QuestionMetrics, edges: Sequence[int] = HISTORY_EDGES) -> list[Group]:
    """All questions by length of the visible history, by warm and cold targets, and by whether the target is of the
    last event's day, within which a log may not know the order; empty slices are left out."""
    length = questions.history_length
    groups = []
    for low, high, name in zip(edges, [*edges[1:], np.inf], span_names(edges), strict=True):
        groups.append(Group("all", f"history {name}", (length >= low) & (length < high)))
    groups.append(Group("all", "warm target", ~questions.cold))
    groups.append(Group("all", "cold target", questions.cold))
    groups.append(Group("all", "target on the last event's day", questions.days == 0))
    groups.append(Group("all", "target on another day", questions.days > 0))
    return [group for group in groups if group.member.any()]
