"""Routines of a planted world: what they say comes next, how often it does, and what the best ranking makes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.synthetic import (
    SyntheticConfig,
    load_truth,
    long_history,
    oracle_scores,
    truth_history,
    write_world,
)
from mdrec_jax.data.synthetic.routines import routine_items
from mdrec_jax.errors import ConfigError

WORLD = SyntheticConfig(users=300, items=80, domains=2, item_overlap=0.2, repeats=True, routine=0.7, cold=0.0, seed=4)


def test_a_routine_is_what_came_next_in_the_domain_the_last_time() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(6), rng.integers(1, 40, 6))
    item, domain = rng.integers(0, 5, len(user)), rng.integers(0, 2, len(user))
    expected = np.full(len(user), -1)
    for u, g in ((u, g) for u in range(6) for g in range(2)):
        followed: dict[int, int] = {}
        last = -1
        for event in np.flatnonzero((user == u) & (domain == g)):
            expected[event] = followed.get(last, -1)
            followed[last] = int(item[event]) if last >= 0 else -1
            last = int(item[event])
    assert (expected >= 0).sum() > 20
    np.testing.assert_array_equal(routine_items(user, item, domain), expected)


def test_users_go_on_as_the_last_time_as_often_as_asked(tmp_path: Path) -> None:
    dataset = write_world(WORLD, tmp_path / "world")
    truth = load_truth(dataset)
    history = truth_history(truth, dataset)
    without = replace(truth, config=replace(truth.config, routine=0.0))
    for g, ids in enumerate(dataset.domain_items):
        events = np.flatnonzero((history.again >= 0) & ~truth.noise & (dataset.domain == g))
        assert len(events) > 1000
        odds = oracle_scores(without, history, events, g)
        by_chance = odds[np.arange(len(events)), np.searchsorted(ids, history.again[events])].mean()
        expected = WORLD.routine + (1 - WORLD.routine) * by_chance
        taken = (history.again[events] == dataset.item[events]).mean()
        assert abs(taken - expected) < 4 * np.sqrt(expected * (1 - expected) / len(events))


def test_the_best_ranking_knows_routines(tmp_path: Path) -> None:
    """Calibration: the expected hits of the item that is likeliest equal those found, and exceed those without."""
    dataset = write_world(WORLD, tmp_path / "world")
    truth = load_truth(dataset)
    history = truth_history(truth, dataset)
    events = np.flatnonzero((history.again >= 0) & (dataset.domain == 0))
    column = np.searchsorted(dataset.domain_items[0], dataset.item[events])
    found = []
    for routine in (WORLD.routine, 0.0):
        odds = oracle_scores(replace(truth, config=replace(truth.config, routine=routine)), history, events, 0)
        np.testing.assert_allclose(odds.sum(1), 1)
        hit = odds.argmax(1) == column
        found.append((hit.mean(), odds.max(1).mean()))
    (hits, expected), (hits_without, _) = found
    assert abs(hits - expected) < 4 * np.sqrt(expected * (1 - expected) / len(events))
    assert hits > hits_without + 0.2


@pytest.mark.parametrize(
    ("field", "found"), [("repeats", {"repeats": False}), ("routine", {"routine": 1.5}), ("routine", {"routine": -0.1})]
)
def test_routines_need_repeats_and_are_a_share(field: str, found: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(WORLD, **found)


def test_routines_and_long_intents_are_not_planted_together() -> None:
    with pytest.raises(ConfigError, match="routine"):
        replace(long_history(), routine=0.5)
