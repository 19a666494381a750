"""What serving keeps of a user: a state whose size no history changes (see `streaming`)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model
from mdrec_jax.models.lanes import Lanes
from mdrec_jax.models.mdrec import MdrecConfig, make_mdrec
from mdrec_jax.models.sasrec import SasrecConfig
from mdrec_jax.models.tied import TiedModel

type Layers = tuple[tuple[Lanes, ...], ...]
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
        model: `mdrec` or `sasrec`, with rotary positions or none.
        users: U.
        dtype: of keys, values and activations. The written memory is float32 at least.

    Raises:
        ConfigError: a model that cannot be streamed.
    """
    flagship, config = streamable(model)
    base, written, domains = config.encoder, config.written, flagship.spec.num_domains
    slots, heads = written.slots if written.mode == "erase" else 0, base.heads if written.mode == "delta" else 0
    width = base.dim // base.heads

    def lanes(number: int) -> Lanes:
        ring = users, number, base.max_length, base.heads, width
        return Lanes(
            key=jnp.zeros(ring, dtype),
            value=jnp.zeros(ring, dtype),
            slots=jnp.zeros((users, number, slots, base.dim)),
            keep=jnp.ones((users, number, slots)),
            added=jnp.zeros((users, number, slots, base.dim)),
            delta=jnp.zeros((users, number, heads, width, width)),
        )

    def layers(number: int) -> Layers:
        return tuple(tuple(lanes(number) for _ in range(config.loop.most)) for _ in range(base.layers))

    two = config.views.in_domain
    return StreamState(
        events=jnp.zeros((users, domains), jnp.int32),
        mixed_layers=layers(1),
        own_layers=layers(domains) if two else (),
        mixed=jnp.zeros((users, base.dim), dtype),
        domain=jnp.zeros((users,), jnp.int32),
        own=jnp.zeros((users, domains if two else 0, base.dim), dtype),
        mixed_time=jnp.zeros((users, 1), jnp.int32),
        own_time=jnp.zeros((users, domains), jnp.int32),
    )


def state_bytes(model: Model, dtype: Any = jnp.float32) -> dict[str, int]:
    """Bytes of one user's state by what they hold, which no history changes.

    Returns:
        `windows` of keys and values, `memory` as written, the `open_chunk`, and the `rest`.

    Raises:
        ConfigError: a model that cannot be streamed.
    """
    state = jax.eval_shape(lambda: initial_state(model, 1, dtype))
    lanes = [one for layers in (state.mixed_layers, state.own_layers) for passes in layers for one in passes]

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return {
        "windows": size([(one.key, one.value) for one in lanes]),
        "memory": size([(one.slots, one.delta) for one in lanes]),
        "open_chunk": size([(one.keep, one.added) for one in lanes]),
        "rest": size((state.events, state.domain, state.mixed, state.own, state.mixed_time, state.own_time)),
    }


def streamable(model: Any) -> tuple[TiedModel, MdrecConfig]:
    """The model as `mdrec`, of which SASRec is the form with every part off."""
    match model.config:
        case MdrecConfig() as config:
            flagship, column = model, "model.encoder.positions"
        case SasrecConfig() as base:
            config, column = MdrecConfig(base), "model.positions"
            flagship = make_mdrec(config, model.spec)
        case other:
            found = type(other).__name__.removesuffix("Config").lower()
            raise ConfigError("cannot be streamed", column="model", found=found, expected="mdrec or sasrec")
    if config.encoder.positions == "learned":
        expected = "rotary or none: learned positions end where the training histories did"
        raise ConfigError("cannot be streamed", column=column, found="learned", expected=expected)
    if config.mixers.kinds:
        found, expected = ", ".join(config.mixers.kinds), "attention alone: a state of the other mixers is not kept"
        raise ConfigError("cannot be streamed", column="model.mixers.kinds", found=found, expected=expected)
    return flagship, config
