"""Which questions a slice holds, and what it is called."""

import dataclasses

import numpy as np
import pytest

from mdrec_jax.evaluate.metrics import HISTORY_EDGES, QuestionMetrics, domain_groups, slice_groups, span_names

LENGTHS = np.asarray([0, 1, 2, 4, 5, 9, 10, 19, 20, 49, 50, 99, 100, 199, 200, 5000], np.int32)
SPANS = {
    "0": (0, 0), "1-4": (1, 4), "5-9": (5, 9), "10-19": (10, 19), "20-49": (20, 49), "50-99": (50, 99),
    "100-199": (100, 199), "200+": (200, 10**9),
}  # fmt: skip


def questions(domain: list[int] | None = None) -> QuestionMetrics:
    """One question of each length, every third about a cold target."""
    fields = {field.name: np.zeros(len(LENGTHS), np.int32) for field in dataclasses.fields(QuestionMetrics)}
    fields |= {"names": (), "values": np.zeros((len(LENGTHS), 0)), "history_length": LENGTHS}
    fields |= {"cold": np.arange(len(LENGTHS)) % 3 == 0, "question": np.arange(len(LENGTHS))}
    return QuestionMetrics(**(fields | ({} if domain is None else {"domain": np.asarray(domain, np.int32)})))


def test_every_question_is_in_the_span_of_its_history() -> None:
    found = {group.slice: group.member for group in slice_groups(questions()) if "history" in str(group.slice)}
    assert list(found) == [f"history {name}" for name in SPANS]
    for name, (low, high) in SPANS.items():
        np.testing.assert_array_equal(found[f"history {name}"], (low <= LENGTHS) & (high >= LENGTHS))


def test_warm_and_cold_targets_are_told_apart_and_empty_slices_left_out() -> None:
    found = {group.slice: group.member for group in slice_groups(questions())}
    np.testing.assert_array_equal(found["cold target"], np.arange(len(LENGTHS)) % 3 == 0)
    np.testing.assert_array_equal(found["warm target"], np.arange(len(LENGTHS)) % 3 != 0)
    short = slice_groups(questions(), edges=(10_000, 20_000))
    assert not [group for group in short if "history" in str(group.slice)]
    assert all(group.domain == "all" and group.member.any() for group in slice_groups(questions()))


def test_spans_are_named_by_their_whole_numbers() -> None:
    assert span_names(HISTORY_EDGES) == tuple(SPANS)
    assert span_names((3, 4, 6)) == ("3", "4-5", "6+")


@pytest.mark.parametrize(("names", "expected"), [(("a",), ["all"]), (("a", "b", "c"), ["a", "c", "all"])])
def test_domains_without_questions_have_no_row(names: tuple[str, ...], expected: list[str]) -> None:
    domain = [0] * 10 + [len(names) - 1] * 6
    groups = domain_groups(questions(domain), names)
    assert [group.domain for group in groups] == expected
    for group in groups:
        place = names.index(group.domain) if group.domain != "all" else None
        np.testing.assert_array_equal(group.member, np.asarray(domain) == place if place is not None else True)
