"""What seeds draw does not change from version to version; the documented numbers of draws, metrics, protocols."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.csr import Csr
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate import bootstrap, candidates, metrics, protocol, ranking, results, scorer, table
from mdrec_jax.evaluate.candidates import check_enough, draw
from mdrec_jax.evaluate.evaluation_set import DAY
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import rank_from_counts

PRIMES = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37], np.int32)
MANY = np.arange(2, 202, dtype=np.int32)
QUERIES = np.array([0, 1, 9])


def excluded(*items: list[int]) -> Csr:
    return Csr(
        np.append(0, np.cumsum([len(some) for some in items])),
        np.array([one for some in items for one in some], np.int32),
    )


@pytest.mark.parametrize(
    ("universe", "left_out", "negatives", "options", "drawn"),
    [
        (PRIMES, [[2], [5, 37], []], 3, {"seed": 4, "number": 1}, [[7, 23, 31], [2, 7, 29], [5, 7, 11]]),
        (
            MANY, [[2], [5, 201], []], 6, {"seed": 4, "number": 1},
            [[119, 124, 118, 23, 127, 61], [80, 108, 4, 59, 146, 169], [121, 181, 40, 43, 5, 107]],
        ),
        (
            MANY, [[2], [5, 201], []], 6, {"seed": 4, "replacement": True},
            [[62, 201, 45, 128, 117, 7], [96, 119, 45, 142, 198, 174], [182, 91, 146, 147, 35, 63]],
        ),
        (
            PRIMES, [[2], [5, 37], []], 3, {"seed": 0, "replacement": True},
            [[13, 17, 23], [19, 31, 31], [3, 11, 7]],
        ),
    ],
)  # fmt: skip
def test_a_seed_draws_what_it_always_drew(
    universe: np.ndarray, left_out: list[list[int]], negatives: int, options: Any, drawn: list[list[int]]
) -> None:
    found = draw(universe, excluded(*left_out), QUERIES, negatives, **{"replacement": False, **options})
    assert found.tolist() == drawn
    again = draw(universe, excluded(*left_out[1:]), QUERIES[1:], negatives, **{"replacement": False, **options})
    assert again.tolist() == drawn[1:]


def test_a_universe_of_four_times_what_is_wanted_is_shuffled_and_a_larger_one_drawn_from() -> None:
    none = excluded([])
    small, large = (
        draw(np.arange(2, 2 + size, dtype=np.int32), none, np.array([3]), 3, replacement=False, seed=0).tolist()
        for size in (12, 13)
    )
    assert (small, large) == ([[2, 10, 11]], [[4, 10, 8]])


def test_the_only_items_left_are_drawn_and_one_too_few_is_refused() -> None:
    few = np.arange(2, 9, dtype=np.int32)
    most = excluded([2, 3, 4, 5, 6, 7])
    assert draw(few, most, np.array([3]), 4, replacement=True, seed=0).tolist() == [[8, 8, 8, 8]]
    assert draw(few, excluded([2, 3, 4, 5]), np.array([3]), 3, replacement=False, seed=0).tolist() == [[6, 7, 8]]
    with pytest.raises(InputError, match="too few items to draw negatives from") as error:
        draw(few, excluded([2, 3, 4, 5], [9, 10]), np.array([3, 4]), 4, replacement=False, seed=0)
    assert error.value.found == "3 items for a query, in a universe of 7"
    assert error.value.expected == "at least 4"
    assert "uniformN" in str(error.value.hint)
    barred = check_enough(few, excluded([1, 3, 8, 99], []), 5)
    assert (barred.offsets.tolist(), barred.values.tolist()) == ([0, 2, 2], [1, 6]), "places of what is there"
    assert len(check_enough(few, Csr(np.array([0]), np.zeros(0, int)), 8)) == 0, "nobody is left with too few"


def test_the_documented_numbers() -> None:
    assert (bootstrap.DRAWS, bootstrap.CONFIDENCE, bootstrap.SEED_DRAWS) == (1000, 0.95, 8)
    assert (bootstrap.FREEDOM_SHARE, bootstrap.MOST_FREEDOM) == (0.6, 1e6)
    assert candidates.SMALL_UNIVERSE == 4
    assert (protocol.TEST_DRAWS, DAY) == (30, 86_400)
    assert metrics.HISTORY_EDGES == (0, 1, 5, 10, 20, 50, 100, 200)
    assert metrics.DEFAULT_METRICS == (
        "hr@1", "hr@5", "hr@10", "hr@20", "hr@50", "ndcg@5", "ndcg@10", "ndcg@20", "ndcg@50", "mrr",
    )  # fmt: skip
    assert metrics.MULTI_TARGET_METRICS == (
        "recall@10", "recall@20", "precision@20", "ndcg@10", "ndcg@20", "hr@20", "mrr",
    )  # fmt: skip
    assert table.COLUMNS == ("hr@10", "ndcg@10", "mrr")
    assert table.MULTI_TARGET_COLUMNS == ("recall@20", "precision@20", "ndcg@20")
    assert results.UNTUNED == ("popularity", "transitions", "transitions-local")
    assert results.BASELINES == (
        "popularity", "transitions", "transitions-local", "date-popularity", "transitions-tuned", "itemknn", "ease",
        "next-ridge", "linear-blend",
    )  # fmt: skip
    assert ranking.WIDTHS == (16, 64, 256, 1024)
    assert scorer.CPU_TOKENS == 2400


def test_a_protocol_is_the_full_ranking_of_the_test_unless_it_is_told_otherwise() -> None:
    assert {field.name: field.default for field in fields(Protocol)} == {
        "name": "full", "split": "test", "candidates": "full", "negatives": 0, "draws": 1, "replacement": False,
        "exclude": "sequence", "seed": 0, "file": None, "universe": "target_domain", "seen": "history", "ties": "half",
        "query_time_visible": False,
    }  # fmt: skip


def test_users_are_drawn_with_their_questions_a_thousand_times_by_default() -> None:
    user = np.array([4, 4, 7, 9])
    values, group = np.arange(8.0).reshape(4, 2), [np.ones(4, bool), np.array([True, False, True, False])]
    sums, counts = bootstrap.resampled_sums(user, values, group)
    assert (sums.shape, counts.shape) == ((1000, 2, 2), (1000, 2))
    again = bootstrap.resampled_sums(user, values, group, draws=1000, seed=0)
    assert np.array_equal(again[0], sums)
    other = bootstrap.resampled_sums(user, values, group, seed=1)
    assert not np.array_equal(other[0], sums)
    assert counts[:, 0].min() >= 3, "three users a draw, each with one question or two"
    assert counts[:, 0].max() <= 6
    np.testing.assert_array_equal(sums[..., 1] - sums[..., 0], counts)
    np.testing.assert_allclose(sums.mean(0), [[12, 16], [4, 6]], rtol=0.1)
    np.testing.assert_allclose(counts.mean(0), [4, 2], rtol=0.1)


def test_a_users_sums_are_those_of_its_questions_in_each_group() -> None:
    place = np.array([0, 0, 1, 2])
    values = np.array([[1.0], [2], [4], [8]])
    groups = [np.ones(4, bool), np.array([False, True, False, True])]
    assert bootstrap._user_sums(place, values, groups, 3).tolist() == [[3, 2, 2, 1], [4, 1, 0, 0], [8, 1, 8, 1]]


def test_a_mean_over_seeds_keeps_its_middle_and_moves_by_what_seeds_differ() -> None:
    one = np.full((50, 1, 1), 3.0)
    rng = np.random.default_rng(0)
    assert bootstrap.add_seed_variation((one,), (1,), rng).tolist() == one.tolist(), "one seed tells nothing of others"
    several = np.tile(np.array([1.0, 2.0, 6.0])[None, :, None], (4000, 1, 1))
    found = bootstrap.add_seed_variation((several,), (1,), rng)
    assert found.shape == (4000, 8, 1)
    assert np.median(found) == pytest.approx(3, abs=0.05)
    low, high = bootstrap.percentile_interval(found.reshape(-1))
    student = 4.303 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert [3 - low, high - 3] == pytest.approx([student, student], rel=0.06)
    gap = bootstrap.add_seed_variation((several, one.repeat(80, axis=0)), (1, -1), rng)
    assert np.median(gap) == pytest.approx(0, abs=0.05)


def test_an_interval_holds_the_middle_and_leaves_draws_of_nothing_out() -> None:
    values = np.append(np.arange(101.0), np.nan)
    assert bootstrap.percentile_interval(values).tolist() == pytest.approx([2.5, 97.5])
    assert bootstrap.percentile_interval(values[:-1], 0.5).tolist() == [25, 75]
    assert bootstrap.ratio(np.array([[3.0], [3]]), np.array([2.0, 0]))[0] == 1.5
    assert np.isnan(bootstrap.ratio(np.array([[3.0]]), np.array([0.0]))).all()


def test_a_tied_target_stands_in_the_middle_in_front_or_behind() -> None:
    higher, ties = np.array([0, 3]), np.array([0, 4])
    assert [rank_from_counts(higher, ties, one).tolist() for one in ("half", "first", "last")] == [
        [1, 6], [1, 4], [1, 8],
    ]  # fmt: skip


def test_metrics_at_their_edges() -> None:
    ranks: Any = SimpleNamespace(
        question=np.array([5, 5, 2]), rank=np.array([[10.0, 1], [11, 3], [2, 20]]), user=np.array([1, 1, 8]),
        domain=np.array([0, 0, 1]), history_length=np.array([4, 4, 9]), cold=np.array([True, False, True]),
        days=np.array([3, 5, 6]),
    )  # fmt: skip
    names = ["hr@10", "hr@1", "recall@10", "precision@10", "ndcg@10", "mrr", "mrr@2"]
    found = metrics.question_metrics(ranks, names)
    gain = lambda *some: sum(1 / np.log2(1 + rank) for rank in some)  # noqa: E731
    first = [[1, 0, 1, 0.1, gain(2), 1 / 2, 1 / 2], [0, 0, 0, 0, 0, 1 / 20, 0]]
    second = [[1, 0, 0.5, 0.1, gain(10) / gain(1, 2), 0.1, 0], [1, 1, 1, 0.2, gain(1, 3) / gain(1, 2), 1, 1]]
    np.testing.assert_allclose(found.values, [np.mean(first, axis=0), np.mean(second, axis=0)])
    assert found.question.tolist() == [2, 5]
    assert (found.user.tolist(), found.domain.tolist()) == ([8, 1], [1, 0])
    assert (found.history_length.tolist(), found.cold.tolist(), found.days.tolist()) == ([9, 4], [True, False], [6, 3])
    for name, draw_of in zip(names, np.moveaxis(np.stack([first, second], axis=1), -1, 0), strict=True):
        one, two = metrics.draw_metrics(ranks, [name])
        np.testing.assert_allclose([one[:, 0], two[:, 0]], np.asarray(draw_of))
