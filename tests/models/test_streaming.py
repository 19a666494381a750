"""Serving event by event gives what encoding the whole history as a batch gives, from a state that does not grow."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model, ModelConfig, make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.loop import Halting, LoopConfig
from mdrec_jax.models.streaming.step import (
    Events,
    StreamState,
    initial_state,
    state_bytes,
    stream_queries,
    stream_recommend,
    stream_update,
)
from mdrec_jax.types import Params, Rows
from tests.models.make import FLAGSHIP, HSTU, PARTS, SASREC, SPEC, pack, random_sequences, relative_error, states

WINDOW, LENGTH, BLOCK = 6, 32, 5
ROTARY = replace(FLAGSHIP, attention_window=WINDOW, positions="rotary", domain_embedding=True, event_embedding=True)
DEEP = replace(ROTARY, layers=2, activation="swiglu")
HISTORIES = random_sequences(0, [LENGTH, LENGTH - 3])
"""More than five times as long as the window."""


@cache
def made(config: ModelConfig) -> tuple[Model, Params]:
    """A model with random parameters; tokens stop early where the bias says so."""
    model, rng = make_model(config, SPEC), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    if config.loop.max_steps > 1:
        params.dense["blocks"]["halting"]["stop"]["bias"] += 3.0
    return model, params


@partial(jax.jit, static_argnames=("model", "tolerance"))
def update(
    model: Model, params: Params, state: StreamState, events: Events, tolerance: float | None = None
) -> StreamState:
    return stream_update(model, params, state, events, tolerance=tolerance)


@partial(jax.jit, static_argnames="model")
def queries(model: Model, params: Params, state: StreamState, domain: jax.Array) -> jax.Array:
    return stream_queries(model, params, state, domain)


def events(cut: list[np.ndarray]) -> Iterator[Events]:
    """Blocks of items as events. Domain, type and the gaps between times are as in `pack`: functions of the item."""
    done = np.zeros(len(cut[0]), np.int32)
    for block in cut:
        item, time = jnp.asarray(block, jnp.int32), done[:, None] + np.cumsum(block * 1000, axis=1, dtype=np.int32)
        done = time[:, -1]
        yield Events(item, item % SPEC.num_domains, item % SPEC.num_events, jnp.asarray(time))


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
    model, params = made(config)
    state, out = initial_state(model, len(cut[0])), np.full((len(cut[0]), LENGTH, FLAGSHIP.dim), np.nan)
    for block in events(cut):
        state = update(model, params, state, block, tolerance)
        last = np.asarray(state.events).sum(1) - 1
        found = queries(model, params, state, jnp.asarray(np.maximum(last, 0) % SPEC.num_domains))
        user = np.flatnonzero(last >= 0)
        out[user, last[user]] = np.asarray(found)[user]
    return out


def encoded(config: ModelConfig, histories: list[list[int]] = HISTORIES) -> np.ndarray:
    return np.asarray(states(*made(config), pack([[history] for history in histories], LENGTH)))


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    there = ~np.isnan(found)
    assert there[:, -4:].any()
    np.testing.assert_allclose(found[there], expected[there], rtol=1e-5, atol=1e-5)


VIEWED = replace(ROTARY, temperature=0.05, **(PARTS["views"] | PARTS["user memory"]))
LOOPED = replace(ROTARY, **(PARTS["loop"] | PARTS["learned memory"] | PARTS["user memory"]))
FEW: dict[str, RecommenderConfig] = {
    "sasrec": DEEP,
    "views, user memory": VIEWED,
    "loop, memories": LOOPED,
    "views, experts": replace(ROTARY, positions="none", **(PARTS["views"] | PARTS["experts"])),
}
EVERY = {
    name: value for part in PARTS.values() for name, value in part.items() if name not in ("mixers", "disentangle")
}
MANY: dict[str, RecommenderConfig] = {
    **{name: replace(DEEP, **part) for name, part in PARTS.items() if name != "mixers"},
    "all but mixers and codes": replace(DEEP, **(EVERY | PARTS["views"])),
}


@pytest.mark.parametrize("config", FEW.values(), ids=FEW.keys())
def test_blocks_of_any_size_give_what_a_batch_gives(config: ModelConfig) -> None:
    for seed in range(3):
        assert_equal(streamed(config, blocks(HISTORIES, seed)), encoded(config))


@pytest.mark.slow
@pytest.mark.parametrize("config", MANY.values(), ids=MANY.keys())
def test_every_part_and_all_of_them_give_what_a_batch_gives(config: ModelConfig) -> None:
    for seed in range(3):
        assert_equal(streamed(config, blocks(HISTORIES, seed)), encoded(config))


def test_one_event_at_a_time_gives_what_a_batch_gives() -> None:
    found = streamed(VIEWED, list(np.asarray(HISTORIES[:1]).T[:, :, None]))
    assert not np.isnan(found).any()
    assert_equal(found, encoded(VIEWED)[:1])


def read(config: ModelConfig, cut: list[np.ndarray], tolerance: float | None = None) -> StreamState:
    model, params = made(config)
    state = initial_state(model, len(cut[0]))
    for block in events(cut):
        state = update(model, params, state, block, tolerance)
    return state


@pytest.mark.parametrize("tolerance", [None, 0.03])
def test_other_users_never_matter(tolerance: float | None) -> None:
    cut = blocks(HISTORIES, seed=3)
    other = [np.stack([block[0], np.roll(block[1], 1) % 7]) for block in cut]
    states = (read(LOOPED, some, tolerance) for some in (cut, other))
    for one, another in zip(*(jax.tree.leaves(state) for state in states), strict=True):
        np.testing.assert_allclose(one[0], another[0], rtol=1e-5, atol=1e-6)


def test_a_user_without_new_events_stays_as_he_was() -> None:
    cut = blocks(HISTORIES, seed=4)
    model, params = made(VIEWED)
    before = read(VIEWED, cut)
    after = update(model, params, before, next(events([cut[0] * np.asarray([[1], [0]])])))
    for one, another in zip(*(jax.tree.leaves(state) for state in (before, after)), strict=True):
        np.testing.assert_array_equal(one[1], another[1])
    assert (np.asarray(before.events[0]) != np.asarray(after.events[0])).any()


def test_the_state_has_one_size() -> None:
    model, _ = made(VIEWED)
    parts = state_bytes(model)
    full = read(VIEWED, blocks(HISTORIES, seed=4))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(full)) == len(HISTORIES) * sum(parts.values())
    sequences, dim, heads = 1 + SPEC.num_domains, FLAGSHIP.dim, FLAGSHIP.heads
    assert parts["windows"] == 4 * sequences * 2 * WINDOW * dim
    assert parts["memory"] == 4 * sequences * heads * (dim // heads) ** 2


@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_early_exit_agrees_within_its_tolerance(layers: int) -> None:
    config = replace(LOOPED, layers=layers)
    cut = blocks(HISTORIES, seed=5)
    exact = streamed(config, cut)
    size = np.nanmax(np.abs(exact))
    for tolerance in (0.0, 0.03):
        error = np.nanmax(np.abs(streamed(config, cut, tolerance) - exact)) / size
        assert error <= max(tolerance, 1e-5), tolerance
        assert tolerance == 0 or error > 1e-5


def test_passes_end_when_every_token_has_stopped() -> None:
    halting = Halting(jax.random.key(0), 4, LoopConfig(max_steps=6))
    assert halting.stop.bias is not None
    halting.stop.bias.set_value(jnp.full((1,), 4.0))
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    real = jnp.asarray([[True, True, False], [True, False, False]])

    def change(x: jax.Array, number: jax.Array, runs: jax.Array, passes: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sin(x), passes + runs

    start = jnp.zeros((2, 3), jnp.int32)
    mixed, stopped, number, passes = halting.until(change, x, real, start, 1e-3)
    exact, _ = jax.jit(lambda x: halting(lambda x, number: jnp.sin(x), x))(x)
    assert 1 < int(number) < 6
    assert int(passes.max()) == int(number)
    np.testing.assert_array_equal(np.asarray(passes) > 0, real)
    np.testing.assert_allclose(mixed[real], exact[real], atol=5e-3)
    assert (np.asarray(stopped) == np.asarray(x))[~np.asarray(real)].all()


def test_the_best_items_are_those_with_the_highest_scores() -> None:
    model, params = made(VIEWED)
    state = read(VIEWED, blocks(HISTORIES, seed=4))
    items, domain = jnp.arange(5, 30, dtype=jnp.int32), jnp.asarray([2, 0])
    scores, found = jax.jit(lambda state: stream_recommend(model, params, state, domain, items, 4))(state)
    rows = {"item": Rows(params.tables["item"], {"items": items})}
    expected = (
        queries(model, params, state, domain)
        @ model.scored_items(model.item_vectors(params.dense, rows, None, "items")).T
    )
    np.testing.assert_array_equal(found, items[np.argsort(-np.asarray(expected), axis=1)[:, :4]])
    np.testing.assert_allclose(scores, -np.sort(-np.asarray(expected), axis=1)[:, :4], rtol=1e-5)


@pytest.mark.slow
def test_states_may_be_half_as_wide() -> None:
    model, params = made(VIEWED)
    state = initial_state(model, 2, jnp.bfloat16)
    for block in events(blocks(HISTORIES, seed=1)):
        state = update(model, params, state, block)
    assert state.mixed_layers[0][0].key.dtype == jnp.bfloat16
    exact = read(VIEWED, blocks(HISTORIES, seed=1))
    assert relative_error(state.own.astype(jnp.float32), exact.own) < 0.05
    assert sum(state_bytes(model, jnp.bfloat16).values()) < sum(state_bytes(model).values())


REFUSED = {
    "hstu": HSTU,
    "learned": SASREC,
    "mixers": replace(ROTARY, **PARTS["mixers"]),
}


@pytest.mark.parametrize("config", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_streamed_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="cannot be streamed"):
        initial_state(make_model(config, SPEC), 1)


def test_a_tolerance_out_of_range_is_refused() -> None:
    model, params = made(LOOPED)
    one = next(events([np.ones((1, 1), np.int32)]))
    with pytest.raises(ValueError, match="tolerance"):
        stream_update(model, params, initial_state(model, 1), one, tolerance=1.0)
