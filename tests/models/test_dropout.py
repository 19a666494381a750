"""Dropout: its rate, its independence, and that no placement of rows on devices changes it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.models.api import ModelConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.dropout import dropout, fold_seeds, keep_mask, row_seeds
from mdrec_jax.types import Batch
from tests.models.make import HSTU, built, pack, random_sequences, rows_of, states

DROPPING = RecommenderConfig(
    dim=8,
    layers=1,
    heads=2,
    attention_window=16,
    embedding_dropout=0.3,
    inner_dropout=0.3,
    residual_dropout=0.3,
)
both_families = pytest.mark.parametrize("config", [DROPPING, HSTU], ids=["sasrec", "hstu"])
BATCH = pack([[s] for s in random_sequences(4, [8] * 8)], columns=8)


def mask(rate: float = 0.5, *, seed: int = 0, site: int = 0, shape: tuple[int, int, int] = (64, 64, 32)) -> np.ndarray:
    return np.asarray(keep_mask(row_seeds(jax.random.key(seed), shape[0], 0), site, shape, rate))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_share_dropped_is_the_rate(rate: float) -> None:
    dropped = ~mask(rate)
    deviation = (rate * (1 - rate) / dropped.size) ** 0.5
    assert abs(dropped.mean() - rate) < 4 * deviation
    for axes in ((1, 2), (0, 2), (0, 1)):
        shares = dropped.mean(axes)
        spread = (rate * (1 - rate) * shares.size / dropped.size) ** 0.5
        assert abs(shares.std() / spread - 1) < 0.5, "rows, columns and channels vary as independent draws do"
        assert np.abs(shares - rate).max() < 5 * spread


def test_draws_of_different_rows_columns_channels_sites_blocks_and_keys_are_uncorrelated() -> None:
    here = mask().astype(float) - 0.5
    seeds = row_seeds(jax.random.key(0), 64, 0)
    folded = fold_seeds(seeds, 0), fold_seeds(seeds, 1)
    blocks = [np.asarray(keep_mask(s, 0, here.shape, 0.5)) for s in folded if s is not None]
    others = {
        "row": np.roll(here, 1, 0),
        "column": np.roll(here, 1, 1),
        "channel": np.roll(here, 1, 2),
        "32 channels": here.reshape(64, -1, 1)[:, np.roll(np.arange(2048), 32)].reshape(here.shape),
        "site": mask(site=1) - 0.5,
        "key": mask(seed=1) - 0.5,
        "block 0": blocks[0] - 0.5,
        "blocks": 2 * (blocks[0] - 0.5) * (blocks[1] - 0.5) * 4 * here,
    }
    for name, other in others.items():
        assert abs((here * other).mean() * 4) < 4 / here.size**0.5, name


def test_bits_of_neighbours_are_independent_beyond_pairs() -> None:
    bits = mask(shape=(64, 64, 64)).reshape(-1, 8)
    counts = np.bincount(np.packbits(bits, axis=1)[:, 0], minlength=256)
    expected = len(bits) / 256
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert 255 - 5 * (2 * 255) ** 0.5 < chi_squared < 255 + 5 * (2 * 255) ** 0.5


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    x = jnp.ones((4, 8, 8))
    y = dropout(x, row_seeds(jax.random.key(0), 4, 0), 0, 0.2)
    assert set(np.unique(y).tolist()) == {0.0, 1.25}


def test_without_seeds_or_with_rate_zero_nothing_is_dropped() -> None:
    x = jnp.ones((4, 8, 8))
    assert dropout(x, None, 0, 0.5) is x
    assert dropout(x, row_seeds(jax.random.key(0), 4, 0), 0, 0.0) is x


@both_families
def test_evaluation_drops_nothing_whatever_the_key(config: ModelConfig) -> None:
    model, params = built(config)
    without = states(model, params, BATCH)
    np.testing.assert_array_equal(states(model, params, BATCH, key=jax.random.key(1)), without)
    assert not np.allclose(states(model, params, BATCH, key=jax.random.key(1), train=True), without)


@both_families
def test_training_depends_on_the_key_alone(config: ModelConfig) -> None:
    model, params = built(config)
    train = partial(states, model, params, BATCH, train=True)
    np.testing.assert_array_equal(train(key=jax.random.key(1)), train(key=jax.random.key(1)))
    assert not np.allclose(train(key=jax.random.key(1)), train(key=jax.random.key(2)))


@both_families
def test_training_without_a_key_is_refused(config: ModelConfig) -> None:
    model, params = built(config)
    with pytest.raises(ValueError, match="key"):
        states(model, params, BATCH, train=True)


@both_families
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_masks_do_not_depend_on_how_rows_are_spread_over_devices(config: ModelConfig, devices: int) -> None:
    model, params = built(config)
    key = jax.random.key(5)
    whole = states(model, params, BATCH, train=True, key=key)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    batch = jax.device_put(BATCH, jax.NamedSharding(mesh, jax.P("data")))

    def local(params, batch: Batch) -> jax.Array:
        first = jax.lax.axis_index("data") * batch.item.shape[0]
        rows = rows_of(model, params, batch)
        return model.encode(params.dense, rows, batch, key=key, train=True, row_offset=first).h

    spread = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(jax.P(), jax.P("data")), out_specs=jax.P("data"), check_vma=False)
    )
    np.testing.assert_allclose(
        spread(jax.device_put(params, jax.NamedSharding(mesh, jax.P())), batch), whole, rtol=1e-5, atol=1e-5
    )


def test_rows_with_the_same_content_get_different_masks() -> None:
    model, params = built(DROPPING)
    same = pack([random_sequences(4, [8])] * 8, columns=8)
    h = states(model, params, same, train=True, key=jax.random.key(0))
    assert not np.allclose(h[0], h[1])
