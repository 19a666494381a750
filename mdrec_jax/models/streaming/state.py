"""What serving keeps of a user: a state whose size no history changes (see `stream.py`)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.streaming.kv_cache import KVCache
from mdrec_jax.models.tied import TiedModel

type Layers = tuple[tuple[KVCache, ...], ...]
"""What is kept for each layer and, within it, for each pass of the loop."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StreamState:
    """All that serving knows of U users; G is the number of domains, or 0 in `own` without an in-domain view."""

    events: Int32[Array, "U G"]
    """Events read so far, by domain."""
    mixed_layers: Layers
    own_layers: Layers
    mixed: Float[Array, "U D"]
    """The mixed view's state after the last event, before the last norm; zeros before the first."""
    domain: Int32[Array, " U"]
    """The last event's; 0 before the first."""
    own: Float[Array, "U G D"]
    """The in-domain view's state after the last event of each domain."""
    mixed_time: Int32[Array, "U 1"]
    """The time of the last event, in seconds since the data set's first."""
    own_time: Int32[Array, "U G"]
    """The time of the last event of each domain."""


def initial_state(model: Model, users: int, dtype: Any = jnp.float32) -> StreamState:
    """The state of users without any event.

    Args:
        model: a recommender with rotary positions or none.
        users: U.
        dtype: of keys, values and activations. The user memory is float32 at least.

    Raises:
        ConfigError: a model that cannot be streamed.
    """
    tied = streamable(model)
    config: Any = tied.config
    domains, heads = tied.spec.num_domains, config.heads if config.user_memory else 0
    width = config.dim // config.heads

    def cache(number: int) -> KVCache:
        ring = users, number, config.attention_window, config.heads, width
        memory = jnp.zeros((users, number, heads, width, width))
        return KVCache(jnp.zeros(ring, dtype), jnp.zeros(ring, dtype), memory)

    def layers(number: int) -> Layers:
        return tuple(tuple(cache(number) for _ in range(config.loop.max_steps)) for _ in range(config.layers))

    two = config.views.in_domain
    return StreamState(
        events=jnp.zeros((users, domains), jnp.int32),
        mixed_layers=layers(1),
        own_layers=layers(domains) if two else (),
        mixed=jnp.zeros((users, config.dim), dtype),
        domain=jnp.zeros((users,), jnp.int32),
        own=jnp.zeros((users, domains if two else 0, config.dim), dtype),
        mixed_time=jnp.zeros((users, 1), jnp.int32),
        own_time=jnp.zeros((users, domains), jnp.int32),
    )


def state_bytes(model: Model, dtype: Any = jnp.float32) -> dict[str, int]:
    """Bytes of one user's state by what they hold, which no history changes.

    Returns:
        `windows` of keys and values, the user `memory`, and the `rest`.

    Raises:
        ConfigError: a model that cannot be streamed.
    """
    state = jax.eval_shape(lambda: initial_state(model, 1, dtype))
    caches = [one for layers in (state.mixed_layers, state.own_layers) for passes in layers for one in passes]

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return {
        "windows": size([(one.key, one.value) for one in caches]),
        "memory": size([one.memory for one in caches]),
        "rest": size((state.events, state.domain, state.mixed, state.own, state.mixed_time, state.own_time)),
    }


def streamable(model: Any) -> TiedModel:
    """The model. Raises ConfigError for one that cannot be streamed."""
    config = model.config
    if not isinstance(config, RecommenderConfig):
        found = type(config).__name__.removesuffix("Config").lower()
        raise ConfigError("cannot be streamed", column="model", found=found, expected="a recommender")
    if config.positions == "learned":
        expected = "rotary or none: learned positions end where the training histories did"
        raise ConfigError("cannot be streamed", column="model.positions", found="learned", expected=expected)
    if config.mixers.kinds:
        found, expected = ", ".join(config.mixers.kinds), "attention alone: a state of the other mixers is not kept"
        raise ConfigError("cannot be streamed", column="model.mixers.kinds", found=found, expected=expected)
    return model
