"""How often domains are seen in training."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching import BatchingConfig, TrainBatches
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.mixing import mix, wanted_shares
from mdrec_jax.data.packing import SHARE_BITS
from mdrec_jax.errors import ConfigError
from tests.data.logs import TRAIN, dataset_of

NATURAL = np.array([900.0, 90.0, 10.0])
NAMES = ("a", "b", "c")


def separate(counts: tuple[int, ...], length: int = 6) -> Dataset:
    """`counts[g]` sequences that stay in domain g."""
    domains = [[domain] * length for domain, count in enumerate(counts) for _ in range(count)]
    return dataset_of([[TRAIN] * length] * len(domains), domains=domains, num_domains=len(counts))


def shares_drawn(batches: TrainBatches, epochs: int) -> np.ndarray:
    """The share of each domain among the targets of whole epochs."""
    counts = np.zeros(len(batches.domain_shares))
    for i in range(epochs * batches.batches_per_epoch()):
        batch = batches[i]
        counts += np.bincount(batch.target_domain[batch.weight > 0], minlength=len(counts))
    return counts / counts.sum()


def config(**mixing: object) -> BatchingConfig:
    return BatchingConfig(rows=2, row_length=20, max_length=8, **mixing)


def test_temperature_one_is_proportional_and_a_high_one_is_even() -> None:
    for temperature, expected in ((1.0, NATURAL / 1000), (1e9, np.full(3, 1 / 3)), (2.0, [0.6998, 0.2213, 0.0738])):
        shares = wanted_shares(NATURAL, "temperature", temperature, (), NAMES)
        np.testing.assert_allclose(shares, np.asarray(expected) / np.sum(expected), atol=1e-3)


def test_a_domain_without_targets_gets_none_whatever_the_temperature() -> None:
    shares = wanted_shares(np.array([10.0, 0.0]), "temperature", 5.0, (), ("a", "b"))
    np.testing.assert_array_equal(shares, [1.0, 0.0])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 2.0), (0.0, 1.0, 1.0), (5.0, 0.0, 0.0)])
def test_explicit_weights_are_the_shares_of_targets(weights: tuple[float, ...]) -> None:
    batches = TrainBatches(separate((60, 9, 3)), config(mixing="explicit", domain_weights=weights), 0)
    wanted = np.array(weights) / sum(weights)
    np.testing.assert_allclose(batches.domain_shares, wanted, atol=1e-6)
    np.testing.assert_allclose(shares_drawn(batches, 30), wanted, atol=0.02)
    if weights[0] == 0:
        assert batches.windows_never_drawn == 60


def test_an_epoch_keeps_its_size_under_mixing() -> None:
    dataset = separate((60, 9, 3))
    plain = TrainBatches(dataset, config(), 0)
    mixed = TrainBatches(dataset, config(mixing="temperature", temperature=4.0), 0)
    assert mixed.targets_per_epoch == plain.targets_per_epoch
    epoch = mixed.batches_per_epoch()
    counts = [sum(float(mixed[i].weight.sum()) for i in range(n * epoch, (n + 1) * epoch)) for n in range(5)]
    np.testing.assert_allclose(counts, plain.targets_per_epoch, rtol=0.03)


def test_sequences_of_several_domains_meet_the_shares_where_drawing_whole_windows_can() -> None:
    targets = np.array([[4, 1], [1, 4], [3, 3], [2, 3]])
    for wanted in ((0.5, 0.5), (0.65, 0.35), (0.35, 0.65)):
        mixture = mix(targets, np.array(wanted))
        np.testing.assert_allclose(mixture.expected_shares, wanted, atol=1e-4)


def test_shares_that_no_drawing_of_whole_windows_has_are_approached_without_drawing_one_window_alone() -> None:
    mixture = mix(np.array([[4, 1], [3, 2]]), np.array([0.1, 0.9]))
    assert mixture.rate is not None
    assert 0.3 < mixture.expected_shares[1] < 0.4  # 0.3 in the data, 0.4 if only the second window were drawn
    assert mixture.rate.min() > 0


def test_of_all_ways_to_the_wanted_shares_the_one_that_changes_the_data_least_is_taken() -> None:
    targets = np.array([[4, 1], [1, 4], [3, 3], [2, 3]])
    mixture = mix(targets, np.array([0.65, 0.35]))
    assert mixture.rate is not None
    size, parts = targets.sum(axis=1), targets / targets.sum(axis=1, keepdims=True)

    def divergence(rate: np.ndarray) -> float:
        return float((size * rate * np.log(rate)).sum())

    rate = mixture.rate / (1 << SHARE_BITS)
    # Directions that keep the number of targets and the shares: the null space of both conditions.
    _, _, directions = np.linalg.svd(np.stack([size, size * parts[:, 0]]))
    for direction in directions[2:]:
        for step in (-0.01, 0.01):
            assert divergence(rate + step * direction) > divergence(rate)


def test_a_domain_of_weight_zero_stays_only_in_windows_that_predict_other_domains_too() -> None:
    mixture = mix(np.array([[5, 0], [0, 5], [4, 1]]), np.array([1.0, 0.0]))
    assert mixture.rate is not None
    assert mixture.rate[1] == 0
    assert mixture.rate[0] > 0
    assert mixture.rate[2] > 0


@settings(max_examples=60, deadline=None)
@given(
    targets=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=20),
    weights=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1)),
)
def test_rates_are_finite_and_keep_the_number_of_targets(
    targets: list[tuple[int, ...]], weights: tuple[float, ...]
) -> None:
    counts = np.array(targets)
    mixture = mix(counts, np.array(weights) / sum(weights))
    assert mixture.rate is not None
    assert (mixture.rate >= 0).all()
    drawn = (mixture.rate / (1 << SHARE_BITS)) @ counts.sum(axis=1)
    assert drawn == pytest.approx(counts.sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [((1.0, 1.0), "2 weights"), ((1.0, 1.0, 1.0), "'domain2' has a weight"), ((0.0, 0.0, 0.0), "no domain")],
)
def test_weights_that_do_not_fit_the_domains_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainBatches(separate((5, 5, 0)), config(mixing="explicit", domain_weights=weights), 0)
