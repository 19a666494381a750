"""Noise put into training events: how much, where, and what it never touches."""

import dataclasses

import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig, TrainBatches
from mdrec_jax.data.batching.noise import NoiseConfig
from mdrec_jax.data.batching.streams import ROLE_TRAIN
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError
from tests.data.logs import CONTEXT, TEST, TRAIN, VALIDATION, dataset_of

SHAPE = BatchingConfig(rows=4, row_length=16, max_length=12)
ROLES = [[TRAIN] * 9 + [VALIDATION, TEST]] * 60


def world(roles: list[list[int]] = ROLES) -> Dataset:
    """Two domains; every event has an item of its own, and each domain has every other item."""
    dataset = dataset_of(roles, num_domains=2, seed=4)
    items = dataset.domain_items[0]
    return dataclasses.replace(
        dataset, domain_items=(items[::2], items[1::2]), domain=np.asarray(dataset.item % 2, np.int16)
    )


def tokens(dataset: Dataset, noise: NoiseConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Item, target and their domains of an epoch's tokens, in the order of their times."""
    batches = TrainBatches(dataset, dataclasses.replace(SHAPE, noise=noise), seed)
    epoch = [batches[i] for i in range(batches.batches_per_epoch())]
    flat = {
        name: np.concatenate([np.asarray(getattr(batch, name))[batch.segment > 0] for batch in epoch])
        for name in ("item", "domain", "target", "target_domain", "weight", "time")
    }
    return {name: values[np.argsort(flat["time"])] for name, values in flat.items()}


def test_the_share_of_events_is_replaced_by_items_of_their_own_domain() -> None:
    dataset = world()
    clean, noisy = tokens(dataset, NoiseConfig()), tokens(dataset, NoiseConfig(share=0.3))
    for item, domain in (("item", "domain"), ("target", "target_domain")):
        changed = noisy[item] != clean[item]
        assert 0.25 < changed.mean() < 0.35
        assert set(np.unique(noisy[item][changed])) <= set(range(2, dataset.spec.num_items))
        np.testing.assert_array_equal(noisy[item] % 2, noisy[domain])
        np.testing.assert_array_equal(noisy[domain], clean[domain])
    # What is read after it was predicted is the same event.
    inside = noisy["time"][1:] - noisy["time"][:-1] == 7
    np.testing.assert_array_equal(noisy["target"][:-1][inside], noisy["item"][1:][inside])


def test_noise_in_inputs_alone_leaves_what_is_predicted() -> None:
    clean, noisy = (tokens(world(), NoiseConfig(share=share, what="inputs")) for share in (0.0, 0.4))
    assert (noisy["item"] != clean["item"]).any()
    for name in ("target", "target_domain", "weight"):
        np.testing.assert_array_equal(noisy[name], clean[name])


def test_the_noise_is_its_seeds_and_grows_with_the_share() -> None:
    dataset = world()
    clean, few, many = (tokens(dataset, NoiseConfig(share=share))["item"] for share in (0.0, 0.2, 0.6))
    hit = few != clean
    np.testing.assert_array_equal(many[hit], few[hit])
    assert (many != clean).sum() > 2 * hit.sum()
    np.testing.assert_array_equal(tokens(dataset, NoiseConfig(share=0.2), seed=9)["item"], few)


def test_what_is_held_out_and_what_is_only_read_keep_their_roles() -> None:
    dataset = world([[TRAIN, CONTEXT, TRAIN, TRAIN, CONTEXT, TRAIN, VALIDATION, TEST]] * 40)
    before = np.array(dataset.item)
    noisy, clean = (tokens(dataset, NoiseConfig(share=share)) for share in (1.0, 0.0))
    np.testing.assert_array_equal(dataset.item, before)
    np.testing.assert_array_equal(noisy["weight"], clean["weight"])
    np.testing.assert_array_equal(noisy["target"] != 0, clean["target"] != 0)
    assert len(noisy["item"]) == 40 * 5
    assert (dataset.role == ROLE_TRAIN).sum() == 40 * 4


def test_items_outside_the_vocabulary_stay() -> None:
    dataset = world()
    dataset = dataclasses.replace(dataset, item=np.where(np.arange(len(dataset.item)) % 11 == 3, 1, dataset.item))
    noisy = tokens(dataset, NoiseConfig(share=1.0))
    assert (noisy["item"] == 1).sum() == 60


def test_batches_may_be_asked_for_in_any_order() -> None:
    config = dataclasses.replace(SHAPE, noise=NoiseConfig(share=0.5))
    one, other = TrainBatches(world(), config, 0), TrainBatches(world(), config, 0)
    late = np.asarray(one[3].item)
    np.testing.assert_array_equal([other[i].item for i in range(4)][3], late)


@pytest.mark.parametrize(("field", "value"), [("share", 1.5), ("share", -0.1), ("what", "targets")])
def test_a_value_out_of_range_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"batching\.noise\.{field}"):
        NoiseConfig(**{field: value})  # pyright: ignore[reportArgumentType]
