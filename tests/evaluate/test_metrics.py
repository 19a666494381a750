"""Metrics are what their formulas say, for one target and for several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.metrics import parse_metric, question_metrics
from mdrec_jax.evaluate.ranks import Ranks, rank_from_counts

NAMES = ("hr@1", "hr@10", "recall@10", "precision@10", "ndcg@10", "mrr", "mrr@10")


def ranks_of(rank: list[list[float]], question: list[int] | None = None, **fields) -> Ranks:
    count = len(rank)
    number = np.arange(count)
    values = {
        "query": number,
        "question": number if question is None else np.array(question),
        "user": number.astype(np.int32),
        "domain": np.zeros(count, np.int32),
        "rank": np.array(rank, np.float32).reshape(count, -1),
        "history_length": np.ones(count, np.int32),
        "cold": np.zeros(count, bool),
        "days": np.full(count, -1, np.int32),
    }
    return Ranks(**{**values, **fields})


@given(st.lists(st.integers(2, 60), min_size=1, max_size=20))
def test_one_target_is_scored_by_the_textbook(halves: list[int]) -> None:
    ranks = [half / 2 for half in halves]
    table = question_metrics(ranks_of([[rank] for rank in ranks]), NAMES).values
    for row, rank in zip(table, ranks, strict=True):
        hit = float(rank <= 10)
        gain = hit / np.log2(1 + rank)
        np.testing.assert_allclose(row, [float(rank <= 1), hit, hit, hit / 10, gain, 1 / rank, hit / rank])


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=14, unique=True), min_size=1, max_size=6), st.randoms()
)
def test_several_targets_are_scored_together(questions: list[list[int]], random) -> None:
    pairs = [(number, rank) for number, ranks in enumerate(questions) for rank in ranks]
    random.shuffle(pairs)
    measured = question_metrics(ranks_of([[rank] for _, rank in pairs], [number for number, _ in pairs]), NAMES)
    np.testing.assert_array_equal(measured.question, np.arange(len(questions)))
    for row, ranks in zip(measured.values, questions, strict=True):
        hits = [rank for rank in ranks if rank <= 10]
        ideal = sum(1 / np.log2(1 + i) for i in range(1, min(len(ranks), 10) + 1))
        expected = [
            float(min(ranks) <= 1),
            float(bool(hits)),
            len(hits) / len(ranks),
            len(hits) / 10,
            sum(1 / np.log2(1 + rank) for rank in hits) / ideal,
            1 / min(ranks),
            max([0.0, *(1 / rank for rank in hits)]),
        ]
        np.testing.assert_allclose(row, expected)


def test_several_draws_of_candidates_are_averaged() -> None:
    both = question_metrics(ranks_of([[1.0, 30.0]]), ["hr@10", "mrr"]).values
    np.testing.assert_allclose(both, [[0.5, (1 + 1 / 30) / 2]])


def test_a_question_is_cold_when_all_of_its_targets_are() -> None:
    ranks = ranks_of([[1.0]] * 4, [0, 0, 1, 1], cold=np.array([True, False, True, True]))
    np.testing.assert_array_equal(question_metrics(ranks, ["mrr"]).cold, [False, True])


def test_ties_count_half_unless_the_protocol_says_otherwise() -> None:
    higher, ties = np.array([0, 3]), np.array([0, 4])
    np.testing.assert_array_equal(rank_from_counts(higher, ties, "half"), [1, 6])
    np.testing.assert_array_equal(rank_from_counts(higher, ties, "first"), [1, 4])
    np.testing.assert_array_equal(rank_from_counts(higher, ties, "last"), [1, 8])


@pytest.mark.parametrize("name", ["hr", "ndcg@0", "ndcg@", "auc@10", "hr@ten", ""])
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown metric"):
        parse_metric(name)
