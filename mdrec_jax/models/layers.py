"""The parts that every sequence model is made of: linear maps, norms, dropout, feed-forward, stacks of blocks."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt32

from mdrec_jax.models import init
from mdrec_jax.models.pure import parameter
from mdrec_jax.types import Scope

NormKind = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "relu", "swiglu"]

NORM_EPSILON = 1e-6
SCAN_FROM_LAYERS = 6
"""Depth from which `auto` runs the blocks as one compiled loop: unrolled is faster, and compiles in time up to here."""


class Linear(nnx.Module):
    """x W + b over the last axis, computed in the dtype of x."""

    def __init__(
        self,
        key: jax.Array,
        inputs: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        bias: bool = True,
        gain: float = 1.0,
        bias_value: float | tuple[float, ...] = 0.0,
        scope: Scope = "shared",
    ) -> None:
        self.kernel = parameter(init.matrix(key, inputs, outputs, gain=gain), *axes, scope=scope)
        start = jnp.broadcast_to(jnp.asarray(bias_value, jnp.float32), (outputs,))
        self.bias = parameter(start, axes[1], group="vector", scope=scope) if bias else None

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        y = matmul(x.reshape(-1, x.shape[-1]), self.kernel.get_value().astype(x.dtype))
        if self.bias is not None:
            y = y + self.bias.get_value().astype(x.dtype)[None, :]
        return y.reshape(*x.shape[:-1], -1)


def matmul(x: Float[Array, "N inputs"], w: Float[Array, "inputs outputs"]) -> Float[Array, "N outputs"]:
    """x w, in the form whose gradient XLA computes fastest on a CPU.

    The gradient of w is a product over all N tokens. It takes half the time when its left factor is the narrower one,
    and half again when x and its gradient have one axis of tokens, not two. The barrier keeps XLA from turning the
    factors round again.
    """
    if w.shape[0] > w.shape[1]:
        w = jax.lax.optimization_barrier(w.T).T
    return x @ w


class Norm(nnx.Module):
    """Layer norm, or RMS norm (no mean, no bias), over the last axis, with statistics in float32 or wider."""

    def __init__(self, dim: int, kind: NormKind, *, affine: bool = True) -> None:
        self.kind = kind
        self.scale = parameter(jnp.ones((dim,)), "embed", group="vector") if affine else None
        with_bias = affine and kind == "layernorm"
        self.bias = parameter(jnp.zeros((dim,)), "embed", group="vector") if with_bias else None

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        wide = at_least_float32(x)
        y = normalise(wide, centre=self.kind == "layernorm")
        for variable, combine in ((self.scale, jnp.multiply), (self.bias, jnp.add)):
            if variable is not None:
                y = combine(y, jnp.expand_dims(variable.get_value().astype(wide.dtype), range(y.ndim - 1)))
        return y.astype(x.dtype)


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in float32, or in its own type where that is wider."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def normalise(x: Float[Array, "... D"], *, centre: bool) -> Float[Array, "... D"]:
    """x / rms(x) over the last axis, after its mean is taken off where `centre` says so."""
    if centre:
        x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + NORM_EPSILON)


def unit_rms(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x over its root mean square, worked out in float32 or wider, in x's type."""
    return normalise(at_least_float32(x), centre=False).astype(x.dtype)


class FeedForward(nnx.Module):
    """Two linear maps with an activation between them.

    `swiglu`: silu(x W) * (x V) in place of the activation of one map (Shazeer 2020, arXiv 2002.05202, eq. 6).
    """

    def __init__(
        self, key: jax.Array, dim: int, hidden: int, activation: Activation, *, output_gain: float = 1.0
    ) -> None:
        up_key, down_key = jax.random.split(key)
        self.activation: Activation = activation
        width = 2 * hidden if activation == "swiglu" else hidden
        self.up = Linear(up_key, dim, width, ("embed", "mlp"))
        self.down = Linear(down_key, hidden, dim, ("mlp", "embed"), gain=output_gain)

    def __call__(
        self, x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None, *, site: int, rate: float
    ) -> Float[Array, "R T D"]:
        return self.down(dropout(activate(self.up(x), self.activation), seeds, site, rate))


def activate(x: Float[Array, "... F"], activation: Activation) -> Float[Array, "... H"]:
    """The activation; `swiglu` halves the last axis, the others keep it."""
    if activation == "swiglu":
        gate, value = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value
    return jax.nn.relu(x) if activation == "relu" else jax.nn.gelu(x, approximate=True)


def row_seeds(key: jax.Array, rows: int, row_offset: int | jax.Array) -> UInt32[Array, "R 2"]:
    """64 random bits for each row from its *global* number, so that masks do not depend on where a row is computed."""
    numbers = row_offset + jnp.arange(rows, dtype=jnp.int32)
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (2,), jnp.uint32))(numbers)


def fold_seeds(seeds: UInt32[Array, "R 2"] | None, number: jax.Array) -> UInt32[Array, "R 2"] | None:
    """Seeds of block `number` (uint32): each block draws masks of its own. None stays None."""
    return None if seeds is None else _mix(seeds + _mix(number + jnp.uint32(1)))


def keep_mask(
    seeds: UInt32[Array, "R 2"], site: int | jax.Array, shape: tuple[int, ...], rate: float
) -> Bool[Array, "R T D"]:
    """True with probability 1 - rate (to 2^-32), a pure function of (row's seeds, site, column, channel).

    Threefry for every entry would cost a third of a small model's step on a CPU. Here threefry makes the rows' seeds,
    and a 32-bit finaliser (two rounds of xor-shift and multiply, the second keyed by the second seed) makes the
    entries: one fused elementwise loop, nothing is stored but the mask.
    """
    columns, channels = shape[1:]
    site = jnp.asarray(site).astype(jnp.uint32)
    first = _mix(seeds[:, 0] + site * jnp.uint32(0x9E3779B9))
    second = _mix(seeds[:, 1] ^ (site * jnp.uint32(0x85EBCA6B)))
    column = jax.lax.broadcasted_iota(jnp.uint32, (1, columns, channels), 1)
    channel = jax.lax.broadcasted_iota(jnp.uint32, (1, columns, channels), 2)
    x = column * jnp.uint32(channels) + channel + first[:, None, None]
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ second[:, None, None]
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = x ^ (x >> 16)
    return x >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A 32-bit bijection in which every input bit changes every output bit about half the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout(
    x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None, site: int | jax.Array, rate: float
) -> Float[Array, "R T D"]:
    """Zero each entry with probability `rate` and scale the others by 1 / (1 - rate); x itself without seeds.

    Args:
        seeds: from `row_seeds`; None when evaluating.
        site: which dropout of the model this is; each site draws a mask of its own.
    """
    if seeds is None or rate == 0.0:
        return x
    keep = keep_mask(seeds, site, x.shape, rate)
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def stack(build: Callable[[jax.Array], Any], key: jax.Array, layers: int) -> Any:
    """`layers` blocks as one module whose parameters have the layers as their first axis."""
    return jax.vmap(build)(jax.random.split(key, layers))


def run_stack[Carry, Out](
    blocks: Any,
    step: Callable[[Any, Carry, jax.Array], tuple[Carry, Out]],
    x: Carry,
    *,
    layers: int,
    scan: bool,
    remat: bool,
) -> tuple[Carry, Out]:
    """x after `x, out = step(block, x, number)` for each block of a stack, and all outs, layers as their first axis.

    x and out are arrays of any tree.

    Args:
        scan: one compiled block run in a loop, whose compile time does not grow with depth; otherwise unrolled.
        remat: keep only the blocks' inputs for the backward pass and compute the rest again.
    """
    if remat:
        step = jax.checkpoint(step, prevent_cse=not scan)
    numbers = jnp.arange(layers, dtype=jnp.uint32)
    if scan:
        return jax.lax.scan(lambda x, block: step(block[0], x, block[1]), x, (blocks, numbers))
    outs = []
    for layer in range(layers):
        x, out = step(jax.tree.map(lambda p, layer=layer: p[layer], blocks), x, numbers[layer])
        outs.append(out)
    return x, jax.tree.map(lambda *out: jnp.stack(out), *outs)
