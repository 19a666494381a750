"""Initial values, linear maps, the feed-forward layer, and the low-rank maps that each domain has of its own."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32, UInt32

from mdrec_jax.models.layers.dropout import Site, dropout
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import Scope

Activation = Literal["gelu", "relu", "swiglu"]


def initial_matrix(key: jax.Array, inputs: int, outputs: int, *, gain: float = 1.0) -> Float32[Array, "inputs outputs"]:
    """A normal matrix cut at two standard deviations, of variance gain^2 / inputs: it keeps its input's scale."""
    # A normal cut at two standard deviations has a standard deviation of 0.87962566.
    scale = gain / (0.87962566 * inputs**0.5)
    return scale * jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)


def initial_rows(key: jax.Array, length: int, dim: int, *, scale: float) -> Float32[Array, "length dim"]:
    """`length` normal vectors with standard deviation `scale`."""
    return scale * jax.random.normal(key, (length, dim), jnp.float32)


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
        self.kernel = parameter(initial_matrix(key, inputs, outputs, gain=gain), *axes, scope=scope)
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
        self, x: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None, *, rate: float
    ) -> Float[Array, "R T D"]:
        return self.down(dropout(activate(self.up(x), self.activation), seeds, Site.FFN_HIDDEN, rate))


def activate(x: Float[Array, "... F"], activation: Activation) -> Float[Array, "... H"]:
    """The activation; `swiglu` halves the last axis, the others keep it."""
    if activation == "swiglu":
        gate, value = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value
    return jax.nn.relu(x) if activation == "relu" else jax.nn.gelu(x, approximate=True)


class DomainPaths(nnx.Module):
    """x A_g B_g for each token's domain g, of low rank r; zero when training starts.

    One product with all domains' A side by side, a mask, and one with all B stacked.
    """

    def __init__(self, key: jax.Array, dim: int, domains: int, rank: int) -> None:
        self.rank = rank
        down = initial_matrix(key, dim, domains * rank)
        self.down = parameter(down, "embed", "domain_rank", scope="private")
        self.up = parameter(jnp.zeros((domains * rank, dim)), "domain_rank", "embed", scope="private")

    def __call__(self, x: Float[Array, "R T D"], domain: Int32[Array, "R T"]) -> Float[Array, "R T D"]:
        y = x @ self.down.get_value().astype(x.dtype)
        own = jnp.arange(y.shape[-1], dtype=jnp.int32)[None, None, :] // self.rank == domain[..., None]
        return jnp.where(own, y, jnp.zeros((), y.dtype)) @ self.up.get_value().astype(x.dtype)
