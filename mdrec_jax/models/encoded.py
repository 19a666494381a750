"""What a model makes of a batch: states, by name. Every loss is an objective, and reads these."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.disentangle import Codes
from mdrec_jax.models.layers.router import Routed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trace:
    """What the layers of one view did with each token: L layers, and within each the P passes of a loop."""

    passes: Float[Array, "L R T"] | None = None
    """How often a layer was applied, in the mean over where the token stopped; None without a loop."""
    routed: dict[str, Routed] = field(default_factory=dict)
    """`mixers`, `experts`: where their routers sent the token, [L, P, R, T, .]."""
    segment: Int32[Array, "R T"] | None = None
    """Of the view's tokens; 0 = padding."""
    place: Int32[Array, "R T"] | None = None
    """The column of the view at which each token of the batch stands; None where they stand as in the batch."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Views:
    """A model's two views of the user at each target, before they are put together."""

    mixed: Float[Array, "R T D"]
    """After the token's event, of all domains."""
    in_domain: Float[Array, "R T D"]
    """After the user's last event in the target's domain, of that domain alone."""
    in_domain_state: Float[Array, "R T D"]
    """What scores items by the in-domain view alone; as `h`, ready for inner products."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoded:
    """A model's answer: one state a token."""

    h: Float[Array, "R T D"]
    """The state after reading the event; scores are inner products with scored item vectors."""
    views: Views | None = None
    """Of a model with an in-domain view."""
    codes: Codes | None = None
    """Of a disentangled model."""
    traces: dict[str, Trace] = field(default_factory=dict)
    """By view: `mixed`, `in_domain`, and in training `cross_domain`. Where nobody reads them, the compiler leaves them
    out."""


def trace_details(traces: dict[str, Trace]) -> dict[str, Float[Array, "L R T *E"]]:
    """VIEW/loops [L, R, T]; VIEW/mixers and VIEW/experts [L, R, T, E], the weight of each choice, and their routers'
    entropy VIEW/mixers_entropy, VIEW/experts_entropy [L, R, T]: means over a loop's passes."""
    details = {}
    for view, trace in traces.items():
        found = {} if trace.passes is None else {"loops": trace.passes}
        for name, routed in trace.routed.items():
            found |= {name: routed.dense().mean(1), f"{name}_entropy": routed.entropy().mean(1)}
        details |= {f"{view}/{name}": _in_batch(detail, trace.place) for name, detail in found.items()}
    return jax.lax.stop_gradient(details)


def _in_batch(detail: Float[Array, "L R T *E"], place: Int32[Array, "R T"] | None) -> Float[Array, "L R T *E"]:
    if place is None:
        return detail
    return jnp.take_along_axis(detail, jnp.expand_dims(place, (0, *range(3, detail.ndim))), axis=2)


def trace_sums(
    traces: dict[str, Trace], segment: Int32[Array, "R T"], gates: dict[str, tuple[str, ...]]
) -> dict[str, Float[Array, ""]]:
    """Sums over the real tokens of means over the layers: `mixed/loops`, `mixed/mixers/attention`, and so on.

    Args:
        gates: the choices' names, by the name of their layer.
    """
    real, sums = segment > 0, {}
    for name, detail in trace_details(traces).items():
        mean = detail.astype(jnp.float32).mean(0)
        if mean.ndim == 2:
            sums[name] = jnp.where(real, mean, 0.0).sum()
            continue
        each = jnp.where(real[..., None], mean, 0.0).sum((0, 1))
        sums |= {f"{name}/{choice}": each[place] for place, choice in enumerate(gates[name.split("/")[1]])}
    return sums
