"""Several kinds of mixers in place of a block's attention, each computed for all tokens, combined by a top-k gate.

attention     everything that the user did, by content (the block's own)
convolution   the last few events, by how long ago they were
context       means over the past, weighted by behaviour type and forgotten with time

The last two share a form: a linear map to values and gates, a causal mixture of the values in float32 or wider, a
product with silu(gate), and an output map. A further kind is a module with their arguments and a line in `MIXERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.errors import InputError
from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.context import Context, ContextRows, begins
from mdrec_jax.models.layers.linear import Linear, initial_matrix
from mdrec_jax.models.layers.norm import at_least_float32
from mdrec_jax.models.layers.router import Routed, Router
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import DatasetSpec

CONVOLVED = 4
"""Events that the convolution sees, itself counted."""


@dataclass(frozen=True)
class MixersConfig:
    """
    Args:
        kinds: of the mixers; none keeps attention alone. `context` needs times.
    """

    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = ("attention", *MIXERS)
        known = len(set(self.kinds)) == len(self.kinds) and set(self.kinds) <= set(kinds)
        check("mixers.kinds", self.kinds, known, "some of " + ", ".join(kinds) + ", each once")


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

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, *, output_gain: float) -> None:
        del spec
        keys = jax.random.split(key, 3)
        self.inward = Linear(keys[0], dim, 2 * dim, ("embed", "heads"))
        self.kernel = parameter(initial_matrix(keys[1], CONVOLVED, dim), "position", "heads")
        self.out = Linear(keys[2], dim, dim, ("heads", "embed"), gain=output_gain)

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], context: Context
    ) -> Float[Array, "R T D"]:
        del context
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


MIXERS: dict[str, Callable[..., Any]] = {"convolution": Convolution, "context": ContextMean}
"""The kinds beside attention."""


class Mixers(nnx.Module):
    """The routed layer. Attention, where it is one of the kinds, is worked out by the block."""

    def __init__(
        self, key: jax.Array, dim: int, spec: DatasetSpec, config: MixersConfig, *, output_gain: float
    ) -> None:
        router_key, *keys = jax.random.split(key, 1 + len(config.kinds))
        self.kinds = config.kinds
        self.router = Router(router_key, dim, spec, len(config.kinds))
        made = {
            kind: MIXERS[kind](key, dim, spec, output_gain=output_gain)
            for kind, key in zip(config.kinds, keys, strict=True)
            if kind in MIXERS
        }
        self.others = nnx.Dict(made)

    def __call__(
        self,
        x: Float[Array, "R T D"],
        attended: Float[Array, "R T D"] | None,
        segment: Int32[Array, "R T"],
        context: Context,
    ) -> tuple[Float[Array, "R T D"], Routed]:
        """The layer's output, and where tokens went.

        Args:
            x: states, normed.
            attended: attention's output where it is one of the kinds.
        """
        routed = self.router(x, context)
        weight = routed.dense().astype(x.dtype)
        y = jnp.zeros_like(x)
        for place, kind in enumerate(self.kinds):
            mixed = self.others[kind](x, segment, context) if kind in MIXERS else attended
            assert mixed is not None
            y = y + weight[..., place, None] * mixed
        return y, routed


type Pair = tuple[Float[Array, "R T D"], Float[Array, "R T D"]]


@jax.custom_vjp
def linear_recurrence(a: Float[Array, "R T D"], b: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
    """h_t = a_t h_{t-1} + b_t along the columns, h before the first being 0; a_t = 0 starts anew.

    The gradient is the same recurrence from the end: nothing but a and h is kept for it.
    """
    return _run(a, b, reverse=False)


def _run(a: Array, b: Array, *, reverse: bool) -> Array:
    """On a CPU column by column: there the loop is as fast as the tree, and compiles in a fifth of the time."""
    return jax.lax.platform_dependent(
        a, b, cpu=lambda a, b: by_column(a, b, reverse=reverse), default=lambda a, b: by_tree(a, b, reverse=reverse)
    )


def by_column(a: Float[Array, "R T D"], b: Float[Array, "R T D"], *, reverse: bool) -> Float[Array, "R T D"]:
    """One step a column; from the last one where `reverse`."""

    def step(h: Float[Array, "R D"], column: tuple[Array, Array]) -> tuple[Array, Array]:
        h = column[0] * h + column[1]
        return h, h

    columns = (jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1))
    return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(b[:, 0]), columns, reverse=reverse)[1], 0, 1)


def by_tree(a: Float[Array, "R T D"], b: Float[Array, "R T D"], *, reverse: bool) -> Float[Array, "R T D"]:
    """In a logarithmic number of steps (Blelloch 1990)."""

    def join(left: Pair, right: Pair) -> Pair:
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(join, (a, b), axis=1, reverse=reverse)[1]


def _forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    h = _run(a, b, reverse=False)
    return h, (a, h)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    a, h = saved
    none = jnp.zeros_like(h[:, :1])
    total = _run(jnp.concatenate([a[:, 1:], none], axis=1), cotangent, reverse=True)
    return total * jnp.concatenate([none, h[:, :-1]], axis=1), total


linear_recurrence.defvjp(_forward, _backward)


def time_constants(number: int, *, longest: float = 128.0) -> Float[Array, " D"]:
    """After how many events a channel has forgotten all but 1/e: from 1 to `longest`, in equal ratios."""
    return longest ** jnp.linspace(0.0, 1.0, number)
