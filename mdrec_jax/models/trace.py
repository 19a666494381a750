"""What each layer did with each token: how often it was applied, and where its routers sent the token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.routing import Routed

type Trace = dict[str, Float[Array, "R T *E"]]
"""Of one layer, by name: `loops`; `mixers`, `experts`: the weight of each choice; `mixers_entropy`, `experts_entropy`.
Of several layers, each with an axis of layers in front: [L, R, T, ...]."""


def trace_of(name: str, routed: Routed) -> Trace:
    """A routed layer's part of the trace."""
    return {name: jax.lax.stop_gradient(routed.dense()), f"{name}_entropy": jax.lax.stop_gradient(routed.entropy())}


def mean_of(traces: list[Trace]) -> Trace:
    """The mean over a block's passes."""
    return jax.tree.map(lambda *passes: jnp.stack(passes).mean(0), *traces)


def statistics(
    details: dict[str, Array], segment: Int32[Array, "R T"], gates: dict[str, tuple[str, ...]]
) -> dict[str, Float[Array, ""]]:
    """Sums over the real tokens of means over the layers: `mixed/loops`, `mixed/mixers/attention`, and so on.

    Args:
        details: VIEW/NAME -> [L, R, T] or [L, R, T, E].
        gates: the choices' names, by the name of their layer.
    """
    real = segment > 0
    sums = {}
    for name, detail in details.items():
        mean = detail.astype(jnp.float32).mean(0)
        if mean.ndim == 2:
            sums[name] = jnp.where(real, mean, 0.0).sum()
            continue
        each = jnp.where(real[..., None], mean, 0.0).sum((0, 1))
        sums |= {f"{name}/{choice}": each[place] for place, choice in enumerate(gates[name.split("/")[1]])}
    return sums
