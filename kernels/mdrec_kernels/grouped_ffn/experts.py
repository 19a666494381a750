"""Experts: their weights, by width, and what they compute between their two products."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Experts:
    """A width class: experts that share a hidden width f.

    y = act(x up_e) down_e, or with a gate y = (act(x gate_e) * x up_e) down_e (with silu
    SwiGLU; Shazeer, 2020, "GLU variants improve transformer").
    """

    up: Float[Array, "E d f"]
    down: Float[Array, "E f d"]
    gate: Float[Array, "E d f"] | None = None

    @property
    def number(self) -> int:
        return self.up.shape[0]

    @property
    def width(self) -> int:
        return self.up.shape[2]

    @property
    def entries(self) -> tuple[Float[Array, "E d f"], ...]:
        """The weights that x meets; the activation acts on the first one's product."""
        return (self.up,) if self.gate is None else (self.gate, self.up)

    def like(self, entries: tuple[Array, ...], down: Array) -> "Experts":
        """Experts, or their gradient, from `entries` and `down`, in the types of these."""
        up, down = entries[-1].astype(self.up.dtype), down.astype(self.down.dtype)
        return Experts(up, down, None if self.gate is None else entries[0].astype(self.gate.dtype))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
}
"""gelu is the approximation by tanh, as in `jax.nn.gelu`."""


def hidden(activation: str, scores: tuple[Array, ...]) -> Array:
    """What goes into the second product, from the products of x and the entries."""
    first, *rest = scores
    out = ACTIVATIONS[activation](first)
    return out * rest[0] if rest else out


def bounds(counts: Int[Array, "E"], classes: tuple[Experts, ...]) -> list[tuple[Int[Array, "c"], Int[Array, "c"]]]:
    """First row of each expert and the row after its last, one pair of arrays a class."""
    ends = jnp.cumsum(counts.astype(jnp.int32))
    starts, found, first = ends - counts.astype(jnp.int32), [], 0
    for experts in classes:
        part = slice(first, first + experts.number)
        found.append((starts[part], ends[part]))
        first += experts.number
    return found
