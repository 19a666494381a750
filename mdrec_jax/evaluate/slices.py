"""Which questions a row of a result is about: all, a domain's, or a slice by history length or by cold targets."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def slice_groups(questions: QuestionMetrics, edges: Sequence[int] = HISTORY_EDGES) -> list[Group]:
    """All questions by length of the visible history, and by warm and cold targets; empty slices are left out."""
    length = questions.history_length
    groups = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        if high is None:
            name, member = f"history {low}+", length >= low
        else:
            name = f"history {low}" if high == low + 1 else f"history {low}-{high - 1}"
            member = (length >= low) & (length < high)
        groups.append(Group("all", name, member))
    groups.append(Group("all", "warm target", ~questions.cold))
    groups.append(Group("all", "cold target", questions.cold))
    return [group for group in groups if group.member.any()]
