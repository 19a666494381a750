"""The planted world is the one that was asked for, and its truth is that of its data."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.synthetic import SyntheticConfig, Truth, load_truth, oracle_scores, truth_history, write_world
from mdrec_jax.errors import ConfigError, InputError

SMALL = SyntheticConfig(users=300, items=150, mean_length=30, max_length=80)
VALIDATION, TEST = 1, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Truth]:
    dataset = write_world(SyntheticConfig(), tmp_path_factory.mktemp("world") / "default")
    return dataset, load_truth(dataset)


def users_of(dataset: Dataset) -> np.ndarray:
    return np.repeat(dataset.sequence_user, np.diff(dataset.sequence_offsets))


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_world(SMALL, tmp_path / "a"), write_world(SMALL, tmp_path / "b")
    assert first.hash == second.hash
    assert write_world(replace(SMALL, seed=1), tmp_path / "c").hash != first.hash


def test_the_counts_are_those_that_were_asked_for(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    config, counts = truth.config, dataset.manifest.counts
    assert config == SyntheticConfig()
    assert (counts.users, counts.sequences) == (config.users, config.users)
    assert [domain.items for domain in counts.domains.values()] == [config.items] * config.domains
    assert counts.items == config.items * config.domains
    assert counts.dropped == {}
    assert counts.events / counts.users == pytest.approx(config.mean_length, rel=0.03)
    assert np.diff(dataset.sequence_offsets).max() <= config.max_length


def test_the_manifest_names_the_truth(world: tuple[Dataset, Truth]) -> None:
    dataset, _ = world
    assert {"truth/truth.json", "truth/user_shared.npy", "truth/event_noise.npy"} <= set(dataset.manifest.files)
    assert open_dataset(dataset.path, verify=True).hash == dataset.hash


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_the_users_overlap_as_asked(tmp_path: Path, overlap: float) -> None:
    dataset = write_world(replace(SMALL, overlap=overlap), tmp_path / "world")
    counts = np.zeros((dataset.num_users, dataset.num_domains), int)
    np.add.at(counts, (users_of(dataset), dataset.domain), 1)
    active = (counts > 0).sum(1)
    assert (active == dataset.num_domains).sum() == round(overlap * dataset.num_users)
    assert set(active) <= {1, dataset.num_domains}
    assert counts[counts > 0].min() >= 3
    np.testing.assert_array_equal(counts > 0, load_truth(dataset).factors.user_domains)


@pytest.mark.parametrize("item_overlap", [0.0, 0.2])
def test_the_items_overlap_as_asked(tmp_path: Path, item_overlap: float) -> None:
    dataset = write_world(replace(SMALL, item_overlap=item_overlap), tmp_path / "world")
    assert [len(ids) for ids in dataset.domain_items] == [SMALL.items] * SMALL.domains
    common = np.intersect1d(dataset.domain_items[0], dataset.domain_items[2])
    assert len(common) == round(item_overlap * SMALL.items)


def test_cold_items_are_never_in_training_and_are_found_in_the_test(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    cold = truth.factors.item_cold[dataset.item]
    assert [int(truth.factors.item_cold[ids].sum()) for ids in dataset.domain_items] == [truth.config.cold_items] * 3
    assert set(dataset.role[cold]) == {TEST}
    assert 0.03 < cold[dataset.role == TEST].mean() < 0.25


def test_the_share_of_noise_is_the_one_asked_for(world: tuple[Dataset, Truth]) -> None:
    _, truth = world
    assert truth.noise.mean() == pytest.approx(truth.config.noise, abs=0.01)


def test_genuine_events_fit_their_user_and_noise_does_not(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    user, factors = users_of(dataset), truth.factors
    fit = (factors.user_shared[user] * factors.item_shared[dataset.item]).sum(1)
    assert fit[~truth.noise].mean() > 1.0
    assert abs(fit[truth.noise].mean()) < 0.2


def test_no_user_meets_an_item_twice_unless_repeats_are_asked_for(world: tuple[Dataset, Truth]) -> None:
    dataset, _ = world
    pairs = np.stack([users_of(dataset), dataset.item])
    assert np.unique(pairs, axis=1).shape == pairs.shape


def test_the_times_of_a_user_strictly_increase(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    step = np.diff(dataset.time)[np.diff(users_of(dataset)) == 0]
    assert step.min() > 0
    assert (dataset.time.max() - dataset.time.min()) / 86_400 <= truth.config.days


def test_category_paths_follow_the_factors(world: tuple[Dataset, Truth]) -> None:
    """Items of one theme lie together in the shared factors, whatever their domain, and nowhere in the specific ones;
    of one leaf in the specific factors of their domain."""
    dataset, truth = world
    factors = truth.factors
    items = np.concatenate(dataset.domain_items)
    theme = np.concatenate([dataset.items(g)["category"].list.get(0).to_numpy() for g in range(3)])
    assert _explained(factors.item_shared[items], theme) > 0.8
    assert _explained(factors.item_specific[items], theme) < 0.05
    books = dataset.domain_items[0]
    leaf = dataset.items(0)["category"].list.get(2).to_numpy()
    assert _explained(factors.item_specific[books], leaf) > 0.7


def _explained(values: np.ndarray, label: np.ndarray) -> float:
    """Share of the variance that lies between the labels."""
    inside = sum(((values[label == x] - values[label == x].mean(0)) ** 2).sum() for x in np.unique(label))
    return float(1 - inside / ((values - values.mean(0)) ** 2).sum())


def test_text_and_images_are_driven_by_the_factors(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    books = dataset.domain_items[0]
    wanted = np.concatenate([truth.factors.item_shared[books], truth.factors.item_specific[books]], 1)
    for name, missing in (("text", 0.0), ("image", truth.config.image_missing)):
        rows, present = dataset.feature(name)
        assert 1 - present[2:].mean() == pytest.approx(missing, abs=0.03)
        assert not rows[~present].any()
        assert _readable(np.asarray(rows[books][present[books]]), wanted[present[books]]) > 0.8


def test_user_factors_can_be_read_from_the_right_history_only(world: tuple[Dataset, Truth]) -> None:
    """By a linear readout of the mean factors of a user's items: shared from shared, specific from specific."""
    dataset, truth = world
    user, factors = users_of(dataset), truth.factors
    here = dataset.domain == 0
    enough = np.bincount(user[here], minlength=dataset.num_users) >= 8
    shared = _mean(factors.item_shared[dataset.item], user, dataset.num_users)[enough]
    specific = _mean(factors.item_specific[dataset.item[here]], user[here], dataset.num_users)[enough]
    of_shared, of_specific = factors.user_shared[enough], factors.user_specific[enough, 0]
    assert _readable(shared, of_shared) > 0.75
    assert _readable(specific, of_specific) > 0.6
    assert _readable(shared, of_specific) < 0.05
    assert _readable(specific, of_shared) < 0.05


def _mean(rows: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
    total = np.zeros((users, rows.shape[1]))
    np.add.at(total, user, rows)
    return total / np.maximum(np.bincount(user, minlength=users), 1)[:, None]


def _readable(inputs: np.ndarray, wanted: np.ndarray) -> float:
    """R2 of a linear readout, fitted on one half and measured on the other."""
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)
    weights = np.linalg.lstsq(inputs[::2], wanted[::2], rcond=None)[0]
    left = ((wanted[1::2] - inputs[1::2] @ weights) ** 2).sum()
    return float(1 - left / ((wanted[1::2] - wanted[::2].mean(0)) ** 2).sum())


def test_the_oracle_gives_each_drawn_item_the_probability_that_it_was_drawn_with(world: tuple[Dataset, Truth]) -> None:
    """Calibration: over many events the expected number of hits of the first ten equals the number found."""
    dataset, truth = world
    history = truth_history(truth, dataset)
    events = np.flatnonzero((dataset.domain == 1) & (dataset.role == VALIDATION))
    odds = oracle_scores(truth, history, events, 1)
    np.testing.assert_allclose(odds.sum(1), 1)
    column = np.searchsorted(dataset.domain_items[1], dataset.item[events])
    drawn = odds[np.arange(len(events)), column]
    assert drawn.min() > 0
    top = np.sort(odds, 1)[:, -10:]
    hit = drawn >= top[:, 0]
    assert abs(hit.mean() - top.sum(1).mean()) < 4 * hit.std() / np.sqrt(len(hit))


def test_a_dataset_without_truth_says_so(tmp_path: Path) -> None:
    dataset = write_world(SMALL, tmp_path / "world")
    (dataset.path / "truth" / "truth.json").unlink()
    with pytest.raises(InputError, match="no planted truth"):
        load_truth(dataset)


@pytest.mark.parametrize(
    ("field", "value"),
    [("users", 0), ("overlap", 1.5), ("noise", -0.1), ("items", 40), ("mean_length", 500.0), ("domains", 0)],
)
def test_a_field_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(SyntheticConfig(), **{field: value})


def test_the_command_makes_a_dataset_without_jax(tmp_path: Path) -> None:
    code = (
        "import sys; from mdrec_jax.cli import synthetic; import argparse; parser = argparse.ArgumentParser();"
        "synthetic.add_parser(parser.add_subparsers()); args = parser.parse_args(sys.argv[1:]);"
        "assert synthetic.run(args) == 0; assert 'jax' not in sys.modules"
    )
    options = ["--users", "200", "--items", "150", "--domains", "2", "--max-length", "60", "--seed", "7"]
    command = [sys.executable, "-c", code, "synthetic", "--out", str(tmp_path / "world"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    truth = load_truth(open_dataset(tmp_path / "world"))
    assert truth.config == SyntheticConfig(users=200, items=150, domains=2, max_length=60, seed=7)
