"""Which questions a row of a result is about: all, a domain's, or a slice of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from mdrec_jax.evaluate.metrics import QuestionMetrics

HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100, 200)
"""A slice holds the histories of at least this many visible events and fewer than the next number."""


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
