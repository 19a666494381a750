"""Long-term intents: planted 300 to 700 events back, alone in deciding certain events, and what the test asks for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.synthetic import Truth, load_truth, long_history, oracle_scores, truth_history, write_world
from mdrec_jax.data.synthetic.factors import CUE, KEY
from mdrec_jax.errors import ConfigError

CONFIG = replace(long_history(), users=60, items=200)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Truth]:
    dataset = write_world(CONFIG, tmp_path_factory.mktemp("long") / "world")
    return dataset, load_truth(dataset)


@pytest.fixture(scope="module")
def decided(world: tuple[Dataset, Truth]) -> np.ndarray:
    """Events that a key decides, soon or after a long gap."""
    _, truth = world
    return np.flatnonzero(truth.value >= 0)


@pytest.fixture(scope="module")
def late(world: tuple[Dataset, Truth], decided: np.ndarray) -> np.ndarray:
    """Those after a long gap."""
    _, truth = world
    return decided[truth.gap[decided] >= CONFIG.long_gap[0]]


def test_the_key_lies_300_to_700_events_back_or_near(
    world: tuple[Dataset, Truth], decided: np.ndarray, late: np.ndarray
) -> None:
    dataset, truth = world
    gap = truth.gap[decided]
    assert gap[gap < 300].max() < 2 * CONFIG.long_soon
    assert gap.max() <= 700
    assert len(late) > 4 * dataset.num_users
    assert len(decided) == (1 + CONFIG.long_echoes) * len(late)
    sequence = np.searchsorted(dataset.sequence_offsets, decided, side="right")
    assert (sequence == np.searchsorted(dataset.sequence_offsets, decided - gap, side="right")).all()
    key = dataset.item[decided - gap]
    assert (truth.factors.item_kind[key] == KEY).all()
    np.testing.assert_array_equal(truth.factors.item_channel[key], truth.channel[decided])
    np.testing.assert_array_equal(truth.factors.item_value[key], truth.value[decided])


def test_nothing_within_300_events_tells_the_value(world: tuple[Dataset, Truth], late: np.ndarray) -> None:
    dataset, truth = world
    for event in late:
        near = slice(event - 299, event)
        assert truth.channel[event] not in truth.channel[near][truth.value[near] >= 0]
        keys = dataset.item[near][truth.factors.item_kind[dataset.item[near]] == KEY]
        assert truth.channel[event] not in truth.factors.item_channel[keys]


def test_no_later_key_of_the_channel_comes_between(world: tuple[Dataset, Truth], decided: np.ndarray) -> None:
    dataset, truth = world
    for event in decided:
        between = dataset.item[event - truth.gap[event] + 1 : event]
        keys = between[truth.factors.item_kind[between] == KEY]
        assert truth.channel[event] not in truth.factors.item_channel[keys]


def test_a_cue_announces_the_event_and_names_the_channel(world: tuple[Dataset, Truth], decided: np.ndarray) -> None:
    dataset, truth = world
    cue = dataset.item[decided - 1]
    assert (truth.factors.item_kind[cue] == CUE).all()
    np.testing.assert_array_equal(truth.factors.item_channel[cue], truth.channel[decided])
    assert (truth.factors.item_kind[dataset.item] == CUE).sum() == len(decided)


def test_the_item_is_of_the_set_that_the_key_leads_to(world: tuple[Dataset, Truth], decided: np.ndarray) -> None:
    dataset, truth = world
    sets = truth.factors.long_sets[truth.channel[decided], truth.value[decided]]
    assert (sets == dataset.item[decided, None]).any(1).all()
    assert len(np.unique(truth.factors.long_sets)) == truth.factors.long_sets.size
    np.testing.assert_array_equal(dataset.domain[decided], (truth.channel[decided] + 1) % dataset.num_domains)
    key = decided - truth.gap[decided]
    np.testing.assert_array_equal(dataset.domain[key], truth.channel[decided] % dataset.num_domains)


def test_no_other_value_tells_it(world: tuple[Dataset, Truth], late: np.ndarray) -> None:
    """A value is independent of the value that the same user's event before was decided by: all are equally likely."""
    _, truth = world
    decided = late
    values = CONFIG.long_intents
    table = np.zeros((values, values))
    np.add.at(table, (truth.value[decided[:-1]], truth.value[decided[1:]]), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    freedom = (values - 1) ** 2
    assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_the_last_two_late_events_are_the_targets(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    for start, end in zip(dataset.sequence_offsets[:-1], dataset.sequence_offsets[1:], strict=True):
        role = dataset.role[start:end]
        events = np.flatnonzero(truth.gap[start:end] >= 300)
        assert role[-1] == 2
        assert events[-1] == end - start - 1
        assert np.flatnonzero(role == 1).tolist() == [events[-2]]
        assert (role[: events[-2]] == 0).all()
        assert (role[events[-2] + 1 : -1] == 3).all()


def test_the_oracle_knows_and_a_short_memory_cannot(world: tuple[Dataset, Truth]) -> None:
    """Knowing the value, the item is one of five; not knowing it, one of thirty, all equally likely."""
    dataset, truth = world
    history = truth_history(truth, dataset)
    for g in range(dataset.num_domains):
        events = np.flatnonzero((dataset.role == 2) & (dataset.domain == g))
        odds = oracle_scores(truth, history, events, g)
        column = np.searchsorted(dataset.domain_items[g], dataset.item[events])
        np.testing.assert_allclose(odds[np.arange(len(events)), column], 1 / CONFIG.long_items)
        np.testing.assert_allclose(odds.sum(1), 1)
    assert CONFIG.long_intents * CONFIG.long_items == 30


@pytest.mark.parametrize("channels", [1, 3])
def test_every_user_has_two_targets_however_short_the_history(tmp_path: Path, channels: int) -> None:
    config = replace(CONFIG, users=30, items=250, long_channels=channels, length_spread=0.8)
    dataset = write_world(config, tmp_path / "world")
    assert dataset.manifest.counts.roles["validation"] == dataset.manifest.counts.roles["test"] == 30


def test_what_long_intents_need_is_checked(tmp_path: Path) -> None:
    changes = {"overlap": 0.5, "repeats": False, "cold": 0.1, "mean_length": 500.0, "items": 100, "long_echoes": 51}
    for name, value in changes.items():
        with pytest.raises(ConfigError):
            replace(long_history(), **{name: value})
