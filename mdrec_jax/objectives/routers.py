"""What keeps routers from sending everything to one module: the load-balance loss of Switch Transformers (arXiv
2101.03961, equation 4) and the router z-loss of ST-MoE (arXiv 2202.08906, equation 5)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.encoded import Trace
from mdrec_jax.models.layers.router import Routed

BALANCE, Z = 0.01, 1e-3
"""Weights of the two losses, a token."""


def router_losses(traces: dict[str, Trace]) -> dict[str, Float[Array, ""]]:
    """Of all layers of all views, each layer's passes in the mean: a sum over this device's tokens, by routed layer."""
    losses: dict[str, Array] = {}
    for trace in traces.values():
        for name, routed in trace.routed.items():
            assert trace.segment is not None
            losses[name] = losses.get(name, jnp.float32(0.0)) + router_loss(routed, trace.segment).mean(1).sum()
    return losses


def router_loss(routed: Routed, segment: Int32[Array, "R T"]) -> Float[Array, "*L"]:
    """BALANCE * E sum_e f_e P_e + Z * logsumexp(logits)^2, summed over tokens.

    f_e is the share of a row's choices that fall on e and P_e the mean of its probability. They are taken row by row,
    so that the sum does not depend on how rows are spread over devices.
    """
    logits, number = routed.logits, routed.logits.shape[-1]
    real = jnp.broadcast_to(segment > 0, logits.shape[:-1]).astype(logits.dtype)
    count = real.sum(-1)
    share = jnp.maximum(count, 1.0)[..., None]
    probability = jax.nn.softmax(logits, axis=-1) * real[..., None]
    sent = jax.nn.one_hot(routed.chosen, number, dtype=logits.dtype).mean(-2) * real[..., None]
    balance = (number * (sent.sum(-2) / share * (probability.sum(-2) / share)).sum(-1) * count).sum(-1)
    z = (jnp.square(jax.nn.logsumexp(logits, axis=-1)) * real).sum((-2, -1))
    return (BALANCE * balance + Z * z).astype(jnp.float32)
