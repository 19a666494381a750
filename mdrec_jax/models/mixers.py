"""Several kinds of mixers in place of a block's attention, each computed for all tokens, combined by a top-k gate.

attention     everything that the user did, by content                                  models/attention.py
convolution   the last few events, by how long ago they were
recurrence    a state that every event updates as much as its content says
context       means over the past, weighted by behaviour type and forgotten with time

The last three share a form: a linear map to values and gates, a causal mixture of the values in float32 or wider, a
product with silu(gate), and an output map.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.errors import InputError
from mdrec_jax.models import init, routing
from mdrec_jax.models.checks import check, check_fields
from mdrec_jax.models.context import Context, ContextRows, begins
from mdrec_jax.models.layers import Linear, at_least_float32
from mdrec_jax.models.pure import parameter
from mdrec_jax.models.recurrence import linear_recurrence, time_constants
from mdrec_jax.models.routing import Routed, Router
from mdrec_jax.types import DatasetSpec

MixerKind = Literal["attention", "convolution", "recurrence", "context"]


@dataclass(frozen=True)
class MixersConfig:
    """
    Args:
        kinds: of the mixers; none keeps attention alone. `context` needs times.
        top_k: mixers whose outputs make up a token's.
        width: events that the convolution sees, itself counted.
        balance: weight of the load-balance loss, a token.
        z: weight of the router z-loss, a token.
        cost: weight of the expected multiplications over those of the dearest mixer, a token: it draws tokens to cheap
            mixers.
    """

    kinds: tuple[MixerKind, ...] = ()
    top_k: int = 2
    width: int = 4
    balance: float = 0.01
    z: float = 1e-3
    cost: float = 0.0

    def __post_init__(self) -> None:
        known = len(set(self.kinds)) == len(self.kinds) and set(self.kinds) <= set(get_args(MixerKind))
        check("mixers.kinds", self.kinds, known, "some of " + ", ".join(get_args(MixerKind)) + ", each once")
        check_fields(self, counts=("width",))
        routing.check_routing("mixers", self, len(self.kinds))


def check_context(config: MixersConfig, spec: DatasetSpec) -> None:
    """Raises InputError where the context mixer is asked for and there are no times."""
    if "context" in config.kinds and not spec.has_time:
        raise InputError(
            "the context mixer needs times, and this data set has none",
            column="model.mixers.kinds",
            found=" ".join(config.kinds),
            expected="kinds without context, or a data set with times",
        )


class Convolution(nnx.Module):
    """y_t = W_o (silu(g_t) * sum_j k_j v_{t-j}), j below the width and within the segment; one k_j a channel."""

    def __init__(self, key: jax.Array, dim: int, width: int, *, output_gain: float) -> None:
        keys = jax.random.split(key, 3)
        self.inward = Linear(keys[0], dim, 2 * dim, ("embed", "heads"))
        self.kernel = parameter(init.matrix(keys[1], width, dim), "position", "heads")
        self.out = Linear(keys[2], dim, dim, ("heads", "embed"), gain=output_gain)
        self.work = 3 * dim * dim + width * dim

    def __call__(self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        value, gate = jnp.split(self.inward(x), 2, axis=-1)
        mixed = causal_convolution(at_least_float32(value), self.kernel.get_value(), segment)
        return self.out(jax.nn.silu(gate) * mixed.astype(x.dtype))


def causal_convolution(
    x: Float[Array, "R T D"], kernel: Float[Array, "W D"], segment: Int32[Array, "R T"]
) -> Float[Array, "R T D"]:
    """sum_j kernel_j x_{t-j} over j = 0 .. W-1 that stay in the token's segment."""
    columns = x.shape[1]
    total = jnp.zeros_like(x)
    for back in range(min(kernel.shape[0], columns)):
        moved = jnp.pad(x[:, : columns - back], ((0, 0), (back, 0), (0, 0)))
        there = jnp.pad(segment[:, : columns - back], ((0, 0), (back, 0)), constant_values=-1) == segment
        total = total + jnp.where(there[..., None], moved * kernel[back].astype(x.dtype)[None, None, :], 0.0)
    return total


class Recurrence(nnx.Module):
    """The real-gated linear recurrent unit of Griffin (arXiv 2402.19427, equations 1 to 4), with its gated branch:

        log a_t = -8 softplus(L) sigmoid(r_t),   h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (sigmoid(i_t) * v_t)
        y_t = W_o (silu(g_t) * h_t)

    r, i, v and g are linear in x. a_t = 0 where a segment starts. A channel's L is such that it forgets within 1 to 128
    events when r is 0.
    """

    def __init__(self, key: jax.Array, dim: int, *, output_gain: float) -> None:
        keys = jax.random.split(key)
        self.inward = Linear(keys[0], dim, 4 * dim, ("embed", "heads"))
        self.decay = parameter(jnp.log(jnp.expm1(1.0 / (4.0 * time_constants(dim)))), "heads", group="vector")
        self.out = Linear(keys[1], dim, dim, ("heads", "embed"), gain=output_gain)
        self.work = 5 * dim * dim

    def __call__(self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        *parts, gate = jnp.split(self.inward(x), 4, axis=-1)
        value, forget, take = (at_least_float32(part) for part in parts)
        rate = jax.nn.softplus(self.decay.get_value().astype(value.dtype))[None, None, :]
        log_a = -8.0 * rate * jax.nn.sigmoid(forget)
        fresh = begins(segment)[..., None]
        # The floor keeps the root's slope finite where a is 1.
        size = jnp.where(fresh, 1.0, jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_a), 1e-6)))
        a = jnp.where(fresh, 0.0, jnp.exp(log_a))
        h = linear_recurrence(a, size * jax.nn.sigmoid(take) * value)
        return self.out(jax.nn.silu(gate) * h.astype(x.dtype))


class ContextMean(nnx.Module):
    """Means of the past, weighted by what is known about events besides their items, whatever their content:

        m_t = (a_t n_{t-1} + w_t v_t) / (a_t d_{t-1} + w_t),   n and d being numerator and denominator
        y_t = W_o (silu(g_t + c_t) * m_t)

    v and g are linear in x; the weight w = sigmoid(.), what is kept a = sigmoid(.), and c come from learned rows of the
    event's context.
    """

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, *, output_gain: float) -> None:
        keys = jax.random.split(key, 3)
        self.inward = Linear(keys[0], dim, 2 * dim, ("embed", "heads"))
        self.rows = ContextRows(keys[1], spec, 3 * dim, "heads")
        self.keep = parameter(-jnp.log(jnp.expm1(1.0 / time_constants(dim))), "heads", group="vector")
        self.out = Linear(keys[2], dim, dim, ("heads", "embed"), gain=output_gain)
        self.work = 3 * dim * dim

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], context: Context
    ) -> Float[Array, "R T D"]:
        value, gate = jnp.split(self.inward(x), 2, axis=-1)
        value = at_least_float32(value)
        weight, keep, opening = jnp.split(self.rows(context).astype(value.dtype), 3, axis=-1)
        weight = jax.nn.sigmoid(weight)
        keep = jax.nn.sigmoid(keep + self.keep.get_value().astype(value.dtype)[None, None, :])
        keep = jnp.where(begins(segment)[..., None], 0.0, keep)
        parts = jnp.concatenate([weight * value, weight], axis=-1)
        total, share = jnp.split(linear_recurrence(jnp.concatenate([keep, keep], axis=-1), parts), 2, axis=-1)
        mean = (total / (share + 1e-6)).astype(x.dtype)
        return self.out(jax.nn.silu(gate + opening.astype(x.dtype)) * mean)


class Mixers(nnx.Module):
    """The routed layer. Attention, where it is one of the kinds, is worked out by the block.

    Args:
        window: events that attention sees, of which half are there on average.
    """

    def __init__(
        self, key: jax.Array, dim: int, spec: DatasetSpec, config: MixersConfig, *, window: int, output_gain: float
    ) -> None:
        router_key, *keys = jax.random.split(key, 1 + len(config.kinds))
        self.config = config
        self.router = Router(router_key, dim, spec, len(config.kinds), config.top_k)
        keys = dict(zip(config.kinds, keys, strict=True))
        made: dict[str, Convolution | Recurrence | ContextMean] = {}
        if "convolution" in keys:
            made["convolution"] = Convolution(keys["convolution"], dim, config.width, output_gain=output_gain)
        if "recurrence" in keys:
            made["recurrence"] = Recurrence(keys["recurrence"], dim, output_gain=output_gain)
        if "context" in keys:
            made["context"] = ContextMean(keys["context"], dim, spec, output_gain=output_gain)
        work = {name: mixer.work for name, mixer in made.items()} | {"attention": (4 * dim + window) * dim}
        self.others, self.work = nnx.Dict(made), tuple(work[kind] for kind in config.kinds)

    def __call__(
        self,
        x: Float[Array, "R T D"],
        attended: Float[Array, "R T D"] | None,
        segment: Int32[Array, "R T"],
        context: Context,
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""], Routed]:
        """The layer's output, its losses (a sum over tokens), and where tokens went.

        Args:
            x: states, normed.
            attended: attention's output where it is one of the kinds.
        """
        routed = self.router(x, context)
        weight = routed.dense().astype(x.dtype)
        y = jnp.zeros_like(x)
        for place, kind in enumerate(self.config.kinds):
            if kind == "attention":
                assert attended is not None
                mixed = attended
            else:
                more = (context,) if kind == "context" else ()
                mixed = self.others[kind](x, segment, *more)
            y = y + weight[..., place, None] * mixed
        return y, routing.losses(routed, segment, self.config, self.work), routed
