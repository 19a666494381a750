"""The bootstrap draws users, all of their questions at once, and covers the truth as often as it says."""

import numpy as np
import pytest

from mdrec_jax.evaluate import bootstrap
from mdrec_jax.evaluate.bootstrap import percentile_interval, ratio, resampled_sums


def test_equal_users_leave_no_spread() -> None:
    user = np.repeat(np.arange(50), 3)
    values = np.tile([[1.0], [2.0], [3.0]], (50, 1))
    sums, counts = resampled_sums(user, values, [np.ones(150, bool)])
    np.testing.assert_allclose(ratio(sums, counts), 2.0)
    np.testing.assert_array_equal(counts, 150.0)


def test_a_user_is_drawn_with_all_questions() -> None:
    """One user owns all the questions that differ: totals come in whole users."""
    user = np.array([0] * 10 + [1] * 10)
    values = np.array([[1.0]] * 10 + [[0.0]] * 10)
    sums, _ = resampled_sums(user, values, [np.ones(20, bool)])
    assert set(np.unique(sums)) == {0.0, 10.0, 20.0}


def test_the_draws_are_multinomial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of users together draw exactly as many users as there are, each equally often, with the right spread."""
    monkeypatch.setattr(bootstrap, "USER_CHUNK", 7)
    users = 40
    who = np.eye(users)
    sums, counts = resampled_sums(np.arange(users), who, [np.ones(users, bool)], draws=4000)
    times = sums[:, 0]
    np.testing.assert_array_equal(times.sum(axis=1), users)
    np.testing.assert_array_equal(counts[:, 0], users)
    np.testing.assert_allclose(times.mean(axis=0), 1.0, atol=0.08)
    np.testing.assert_allclose(times.var(axis=0), 1 - 1 / users, atol=0.15)
    np.testing.assert_allclose(np.cov(times.T)[0, 1], -1 / users, atol=0.06)


def test_the_spread_is_that_of_a_mean() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((5000, 2))
    low, high = percentile_interval(ratio(*resampled_sums(np.arange(5000), values, [np.ones(5000, bool)])))[:, 0]
    expected = 2 * 1.96 * values.std(axis=0) / np.sqrt(5000)
    np.testing.assert_allclose(high - low, expected, rtol=0.1)
    assert (low < values.mean(axis=0)).all()
    assert (values.mean(axis=0) < high).all()


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(200):
        values = (generator.random((400, 1)) < 0.3).astype(float)
        low, high = percentile_interval(
            ratio(*resampled_sums(np.arange(400), values, [np.ones(400, bool)], draws=300))[:, 0, 0]
        )
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


def test_groups_share_the_draws_and_leave_users_without_questions_out() -> None:
    user = np.arange(100)
    values = np.ones((100, 1))
    part = user < 30
    sums, counts = resampled_sums(user, values, [part, ~part, np.ones(100, bool)])
    np.testing.assert_array_equal(counts[:, 0] + counts[:, 1], counts[:, 2])
    np.testing.assert_array_equal(sums[..., 0], counts)
    assert counts[:, 0].std() > 1


def test_a_draw_without_any_user_of_a_group_does_not_count() -> None:
    user = np.arange(3)
    sums, counts = resampled_sums(user, np.ones((3, 1)), [user == 0])
    assert (counts == 0).any()
    np.testing.assert_array_equal(percentile_interval(ratio(sums, counts)), 1.0)


def test_the_same_seed_gives_the_same_draws() -> None:
    arguments = np.arange(200), np.random.default_rng(0).random((200, 1)), [np.ones(200, bool)]
    first, again, other = (resampled_sums(*arguments, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_interval_leaves_equal_tails() -> None:
    values = np.random.default_rng(0).permutation(1001.0 * np.ones(1001) - np.arange(1001.0) - 1)
    np.testing.assert_allclose(percentile_interval(values), [25.0, 975.0])
    np.testing.assert_allclose(percentile_interval(values, 0.5), [250.0, 750.0])
    np.testing.assert_allclose(percentile_interval(np.append(values, [np.nan] * 9)), [25.0, 975.0])


def test_means_are_sums_over_counts_and_nothing_where_nothing_is_counted() -> None:
    found = ratio(np.asarray([[6.0, 3.0], [0.0, 0.0]]), np.asarray([2.0, 0.0]))
    np.testing.assert_array_equal(found, [[3.0, 1.5], [np.nan, np.nan]])
