"""A router: which k of several modules a token's output is made of, and with which weights.

Top-k routing with the load-balance loss of Switch Transformers (arXiv 2101.03961, equation 4), the router z-loss of
ST-MoE (arXiv 2202.08906, equation 5), and an expected cost, after the parameter penalty of HMoE (arXiv 2408.10681).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.checks import check
from mdrec_jax.models.context import Context, ContextRows
from mdrec_jax.models.layers import Linear, at_least_float32
from mdrec_jax.types import DatasetSpec


class RoutingConfig(Protocol):
    """What the configuration of a routed layer says of its router."""

    @property
    def top_k(self) -> int: ...
    @property
    def balance(self) -> float: ...
    @property
    def z(self) -> float: ...
    @property
    def cost(self) -> float: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routed:
    """Where tokens go."""

    logits: Float[Array, "R T E"]
    """In float32 or wider."""
    chosen: Int32[Array, "R T k"]
    weight: Float[Array, "R T k"]
    """Softmax over the chosen: they sum to 1."""

    def dense(self) -> Float[Array, "R T E"]:
        """The weights by module; zeros for those that are not chosen."""
        hot = jax.nn.one_hot(self.chosen, self.logits.shape[-1], dtype=self.weight.dtype)
        return (hot * self.weight[..., None]).sum(2)

    def entropy(self) -> Float[Array, "R T"]:
        """Of the softmax over all modules, as a share of the most that it can be."""
        log = jax.nn.log_softmax(self.logits, axis=-1)
        return -(jnp.exp(log) * log).sum(-1) / math.log(max(self.logits.shape[-1], 2))


class Router(nnx.Module):
    """logits = W [state; domain; context]: an event's state and facts of its own, nothing of other users.

    With each fact one-hot, its part of the product is a row of W.
    """

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, number: int, top_k: int) -> None:
        keys = jax.random.split(key)
        self.top_k = top_k
        self.state = Linear(keys[0], dim, number, ("embed", "expert"))
        self.context = ContextRows(keys[1], spec, number, "expert")

    def __call__(self, x: Float[Array, "R T D"], context: Context) -> Routed:
        logits = at_least_float32(self.state(x))
        logits = logits + self.context(context).astype(logits.dtype)
        best, chosen = jax.lax.top_k(logits, self.top_k)
        return Routed(logits, chosen, jax.nn.softmax(best, axis=-1))


def losses(
    routed: Routed, segment: Int32[Array, "R T"], config: RoutingConfig, costs: Sequence[float]
) -> Float[Array, ""]:
    """balance * E sum_e f_e P_e + z * logsumexp(logits)^2 + cost * sum_e p_e c_e, summed over tokens.

    f_e is the share of a row's choices that fall on e and P_e the mean of its probability. They are taken row by row,
    so that the sum does not depend on how rows are spread over devices.

    Args:
        costs: c_e; they are divided by the largest.
    """
    logits, number = routed.logits, routed.logits.shape[-1]
    real = (segment > 0).astype(logits.dtype)
    count = real.sum(1)
    share = jnp.maximum(count, 1.0)[:, None]
    probability = jax.nn.softmax(logits, axis=-1) * real[..., None]
    sent = jax.nn.one_hot(routed.chosen, number, dtype=logits.dtype).mean(2) * real[..., None]
    balance = (number * (sent.sum(1) / share * (probability.sum(1) / share)).sum(-1) * count).sum()
    z = (jnp.square(jax.nn.logsumexp(logits, axis=-1)) * real).sum()
    relative = jnp.asarray(costs, logits.dtype) / max(costs)
    cost = (probability * relative[None, None, :]).sum()
    return (config.balance * balance + config.z * z + config.cost * cost).astype(jnp.float32)


def check_routing(name: str, config: RoutingConfig, number: int) -> None:
    """Raises ConfigError for a `top_k` that the `number` of modules (0 = off) does not have, or a weight below 0."""
    most = max(number, 1)
    check(f"{name}.top_k", config.top_k, config.top_k >= 1 and (not number or config.top_k <= most), f"1 to {most}")
    for field in ("balance", "z", "cost"):
        check(f"{name}.{field}", getattr(config, field), getattr(config, field) >= 0, ">= 0")
