"""What a probe rests on: parts of users, standardised channels, penalties, ratios with intervals. No training."""

from typing import Any

import numpy as np
import pytest

from mdrec_jax.evaluate import bootstrap
from mdrec_jax.evaluate.probes import linear_probe
from mdrec_jax.evaluate.probes.linear_probe import Figure, Parts, explained, share_of, split_users


def test_half_of_the_users_teach_a_fifth_choose_and_the_others_judge() -> None:
    user = np.repeat(np.arange(100, 120), 3)
    parts = split_users(user, 0)
    whose = [set(user[part].tolist()) for part in (parts.teach, parts.choose, parts.judge)]
    assert [len(some) for some in whose] == [10, 4, 6]
    assert set.union(*whose) == set(user.tolist())
    assert (parts.teach.astype(int) + parts.choose + parts.judge == 1).all(), "every row has one part"
    again, other = split_users(user, 0), split_users(user, 1)
    assert np.array_equal(again.teach, parts.teach)
    assert np.array_equal(again.judge, parts.judge)
    assert not np.array_equal(other.teach, parts.teach)
    assert whose[0] != set(range(100, 110)), "dealt at random"


def test_the_documented_training_of_a_classifier() -> None:
    assert (linear_probe.STEPS, linear_probe.VALIDATE_EVERY, linear_probe.BLOCK) == (2000, 100, 256)
    assert (linear_probe.LEARNING_RATE, linear_probe.WEIGHT_DECAY) == (3e-3, 1e-3)
    assert list(linear_probe.RIDGE) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000, 10_000])
    orders = list(linear_probe._orders(1000, 0))
    assert [one.shape for one in orders] == [(100, 256)] * 20
    assert all(one.min() >= 0 and one.max() <= 999 for one in orders)
    assert orders[0].max() > 990
    assert len(np.unique(np.concatenate(orders))) == 1000
    assert not np.array_equal(orders[0], orders[1])
    few = next(linear_probe._orders(7, 0))
    assert few.shape == (100, 7)
    assert np.array_equal(few, next(linear_probe._orders(7, 0)))
    assert not np.array_equal(few, next(linear_probe._orders(7, 1)))


def test_a_layer_starts_with_weights_of_unit_output_and_no_bias() -> None:
    import jax

    layers = linear_probe._initial(jax.random.key(0), (400, 90, 3))
    assert [(w.shape, b.shape) for w, b in layers] == [((400, 90), (90,)), ((90, 3), (3,))]
    assert float(layers[0][0].std()) == pytest.approx(400**-0.5, rel=0.05)
    assert float(layers[1][0].std()) == pytest.approx(90**-0.5, rel=0.2)
    assert not any(np.asarray(b).any() for _, b in layers)
    assert not np.array_equal(layers[0][0][:3, :3], layers[1][0][:3, :3])


def test_logits_pass_through_a_hidden_layer_and_losses_are_weighted_means() -> None:
    one = (np.array([[1.0, -1.0]], np.float32), np.array([0.0, 0.5], np.float32))
    two = (np.array([[2.0], [1.0]], np.float32), np.array([0.25], np.float32))
    x = np.array([[3.0], [-3.0]], np.float32)
    np.testing.assert_allclose(linear_probe._logits([one], x), [[3, -2.5], [-3, 3.5]], rtol=1e-6)
    gelu = lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))  # noqa: E731
    expected = [2 * gelu(3) + gelu(-2.5) + 0.25, 2 * gelu(-3) + gelu(3.5) + 0.25]
    np.testing.assert_allclose(linear_probe._logits([one, two], x)[:, 0], expected, rtol=1e-4)
    label, weight = np.array([0, 0]), np.array([3.0, 1.0], np.float32)
    wrong = [np.log(1 + np.exp(-5.5)), np.log(1 + np.exp(6.5))]
    loss = float(linear_probe._loss([one], x, label, weight))
    assert loss == pytest.approx((3 * wrong[0] + wrong[1]) / 4, rel=1e-5)


def parts_of(text: str) -> Parts:
    letters = np.array(list(text))
    return Parts(letters == "t", letters == "c", letters == "j")


def test_channels_are_standardised_by_the_rows_that_teach() -> None:
    x = np.array([[1.0, 5, 2], [3, 5, 2], [9, 7, 2], [-1, 5, 4]], np.float32)
    found = linear_probe._standardised(x, parts_of("ttcj"))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[-1, 0, 0], [1, 0, 0], [7, 0, 0], [-3, 0, 0]])
    nearly = 1000 + np.array([[0.0], [1e-4]])
    assert not linear_probe._standardised(nearly, parts_of("tt")).any(), "rounding is no spread"
    np.testing.assert_allclose(linear_probe._standardised(1 + np.array([[0.0], [1e-3]]), parts_of("tt")), [[-1], [1]])


def test_the_penalty_of_a_regression_serves_the_rows_that_choose() -> None:
    rng = np.random.default_rng(0)
    x, teach = rng.normal(size=(60, 2)) + 3, np.arange(60) < 40
    y = np.stack([2 * x[:, 0] - x[:, 1] + 5, x[:, 1]], axis=1)
    guess, mean = linear_probe._ridge(x, y, teach, ~teach)
    np.testing.assert_allclose(guess(x), y, atol=1e-4)
    np.testing.assert_allclose(mean, y[teach].mean(0))
    shrunk = y.copy()
    shrunk[~teach] = mean + (y[~teach] - mean) / 11
    guess, _ = linear_probe._ridge(x, shrunk, teach, ~teach)
    centre = x[teach].mean(0)
    a, b = x[teach] - centre, y[teach] - mean
    solved = [np.linalg.solve(a.T @ a + penalty * 40 * np.eye(2), a.T @ b) for penalty in (1e-6, *linear_probe.RIDGE)]
    errors = [np.square(shrunk[~teach] - mean - (x[~teach] - centre) @ w).sum() for w in solved]
    best = int(np.argmin(errors))
    assert 0 < best < 7, "neither end"
    np.testing.assert_allclose(guess(x), mean + (x - centre) @ solved[best])


def test_what_is_explained_is_the_share_of_the_variance_on_users_that_judge() -> None:
    rng = np.random.default_rng(1)
    user, group = np.repeat(np.arange(40), 2), np.tile([0, 1], 40)
    x = rng.normal(size=(80, 2))
    y = np.where(group[:, None] == 0, x, -x) + 0.5 * rng.normal(size=(80, 2))
    parts = split_users(user, 3)
    wrong, whole = 0.0, 0.0
    for one in (0, 1):
        rows = group == one
        guess, mean = linear_probe._ridge(
            linear_probe._standardised(x, parts), y, rows & parts.teach, rows & parts.choose
        )
        mine = rows & parts.judge
        wrong += np.square(y[mine] - guess(linear_probe._standardised(x, parts)[mine])).sum()
        whole += np.square(y[mine] - mean).sum()
    found = explained(x, y, user, group, seed=3)
    assert found.value == pytest.approx(1 - wrong / whole)
    assert 0.5 < found.low < found.value < found.high < 1
    assert explained(x, y, user, np.zeros(80, int), seed=3).value < 0.3, "groups are regressed apart"
    assert found != explained(x, y, user, group, seed=4)
    assert explained(x, y, user, group) == explained(x, y, user, group, seed=0)


def test_a_share_is_a_sum_over_a_sum_with_an_interval_over_users() -> None:
    value, whole = np.array([1.0, 0, 2, 1]), np.array([2.0, 1, 2, 3])
    found = share_of(value, whole, np.array([0, 1, 2, 3]))
    assert found.value == 0.5
    assert 0 <= found.low < 0.5 < found.high <= 1
    assert share_of(value, whole, np.array([5, 5, 5, 5])) == Figure(0.5, 0.5, 0.5)
    draws = np.arange(1001) / 1000
    figure = linear_probe._figure(0.3, draws)
    low, high = bootstrap.percentile_interval(draws)
    assert figure == Figure(0.3, float(low), float(high))
    assert (figure.low, figure.high) == pytest.approx((0.025, 0.975), abs=1e-3)


def test_accuracy_is_the_mean_over_labels_among_users_that_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    user, label = np.arange(40), np.where(np.arange(40) % 4 == 0, 7, 3)
    seen: list[Any] = []

    def classifier(x: np.ndarray, label: np.ndarray, parts: Parts, hidden: int, seed: int) -> Any:
        seen.append((sorted(set(label.tolist())), hidden, seed))
        return lambda chosen: np.zeros(int(chosen.sum()), int)

    monkeypatch.setattr(linear_probe, "_classifier", classifier)
    found = linear_probe.balanced_accuracy(np.zeros((40, 1)), label, user, hidden=5, seed=2)
    assert found.value == 0.5, "one label is always right, one never, whatever their numbers"
    linear_probe.balanced_accuracy(np.zeros((40, 1)), label, user)
    assert seen == [([0, 1], 5, 2), ([0, 1], 0, 0)]
    monkeypatch.setattr(linear_probe, "_classifier", lambda *_: lambda chosen: (label[chosen] == 7).astype(int))
    assert linear_probe.balanced_accuracy(np.zeros((40, 1)), label, user) == Figure(1, 1, 1)
