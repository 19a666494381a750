"""Serving event by event gives what encoding the whole history as a batch gives, from a state that does not grow."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model, ModelConfig, make_model
from mdrec_jax.models.looping import LoopConfig
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.models.streaming import (
    Events,
    StreamState,
    initial_state,
    state_bytes,
    stream_queries,
    stream_recommend,
    stream_update,
)
from mdrec_jax.types import Params
from tests.models.make import FLAGSHIP, HSTU, PARTS, SASREC, SPEC, built, pack, random_sequences, relative_error, states

WINDOW, LENGTH, BLOCK = 6, 32, 5
ROTARY = replace(FLAGSHIP, max_length=WINDOW, positions="rotary", domain_embedding=True, event_embedding=True)
DEEP = replace(ROTARY, layers=2, gated_residual=True, input_norm=True, norm="rmsnorm", activation="swiglu")
HISTORIES = random_sequences(0, [LENGTH, LENGTH - 3])
"""More than five times as long as the window."""


@partial(jax.jit, static_argnames=("model", "tolerance"))
def update(
    model: Model, params: Params, state: StreamState, events: Events, tolerance: float | None = None
) -> StreamState:
    return stream_update(model, params, state, events, tolerance=tolerance)


@partial(jax.jit, static_argnames="model")
def queries(model: Model, params: Params, state: StreamState, domain: jax.Array) -> jax.Array:
    return stream_queries(model, params, state, domain)


def events(item: np.ndarray) -> Events:
    """Domain and type as in `pack`: functions of the item."""
    item = jnp.asarray(item, jnp.int32)
    return Events(item, item % SPEC.num_domains, item % SPEC.num_events)


def blocks(histories: list[list[int]], seed: int, width: int = BLOCK) -> list[np.ndarray]:
    """The histories cut into blocks of random sizes, with gaps at random places; each user has a pace of their own."""
    rng, done, out = np.random.default_rng(seed), [0] * len(histories), []
    while any(at < len(history) for at, history in zip(done, histories, strict=True)):
        block = np.zeros((len(histories), width), np.int32)
        for user, history in enumerate(histories):
            size = min(int(rng.integers(0, width + 1)), len(history) - done[user])
            places = np.sort(rng.choice(width, size, replace=False))
            block[user, places] = history[done[user] : done[user] + size]
            done[user] += size
        out.append(block)
    return out


def streamed(config: ModelConfig, cut: list[np.ndarray], tolerance: float | None = None) -> np.ndarray:
    """The answers after each event at which a block ends, elsewhere nan, laid out as in a batch [U, T, D]."""
    model, params = built(config)
    state, out = initial_state(model, len(cut[0])), np.full((len(cut[0]), LENGTH, FLAGSHIP.dim), np.nan)
    for block in cut:
        state = update(model, params, state, events(block), tolerance)
        last = np.asarray(state.events).sum(1) - 1
        found = queries(model, params, state, jnp.asarray(np.maximum(last, 0) % SPEC.num_domains))
        user = np.flatnonzero(last >= 0)
        out[user, last[user]] = np.asarray(found)[user]
    return out


def encoded(config: ModelConfig, histories: list[list[int]] = HISTORIES) -> np.ndarray:
    return np.asarray(states(*built(config), pack([[history] for history in histories], LENGTH)))


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    there = ~np.isnan(found)
    assert there[:, -4:].any()
    np.testing.assert_allclose(found[there], expected[there], rtol=1e-5, atol=1e-5)


SINGLE = {name: MdrecConfig(ROTARY, **part) for name, part in PARTS.items()}
CONFIGS: dict[str, ModelConfig] = {
    "sasrec": DEEP,
    "sasrec without positions": replace(ROTARY, positions="none", layers=2),
    "cosine": MdrecConfig(replace(ROTARY, scores="cosine")),
    **SINGLE,
}
HEAVY: dict[str, ModelConfig] = {
    f"views, loop, banks, {memory}, experts": MdrecConfig(
        DEEP, **(PARTS["views"] | PARTS["loop"] | PARTS["banks"] | PARTS[memory] | PARTS["experts"])
    )
    for memory in ("slots", "delta")
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_blocks_of_any_size_give_what_a_batch_gives(config: ModelConfig) -> None:
    assert_equal(streamed(config, blocks(HISTORIES, seed=1)), encoded(config))
    assert_equal(streamed(config, blocks(HISTORIES, seed=2)), encoded(config))


@pytest.mark.slow
@pytest.mark.parametrize("config", HEAVY.values(), ids=HEAVY.keys())
def test_all_parts_together_give_what_a_batch_gives(config: ModelConfig) -> None:
    for seed in range(3):
        assert_equal(streamed(config, blocks(HISTORIES, seed)), encoded(config))
