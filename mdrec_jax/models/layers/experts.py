"""A mixture of feed-forward experts of several widths in place of a block's feed-forward layer.

Experts of different size after HMoE (arXiv 2408.10681), chosen by a top-k router. Dispatch is exact: there is no
capacity and no token is dropped.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32
from mdrec_kernels import grouped_ffn

from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.context import Context
from mdrec_jax.models.layers.linear import initial_matrix
from mdrec_jax.models.layers.router import Routed, Router
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import DatasetSpec


@dataclass(frozen=True)
class ExpertsConfig:
    """
    Args:
        per_width: experts of each width; 0 keeps the dense feed-forward layer.
        multiples: hidden widths over `dim`, one width class each.
    """

    per_width: int = 0
    multiples: tuple[float, ...] = (1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        each = self.per_width
        check("experts.per_width", each, each >= 0, "a number of experts, >= 0")
        positive = bool(self.multiples) and all(multiple > 0 for multiple in self.multiples)
        check("experts.multiples", self.multiples, positive, "widths > 0")

    @property
    def number(self) -> int:
        return self.per_width * len(self.multiples)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the experts, in the order in which they are numbered: the width's multiple, and which of that width where
        there are several."""
        each = self.per_width
        if each == 1:
            return tuple(f"{multiple:g}x" for multiple in self.multiples)
        return tuple(f"{multiple:g}x.{which}" for multiple in self.multiples for which in range(each))


class WidthClass(nnx.Module):
    """Weights of the experts of one width."""

    def __init__(self, key: jax.Array, number: int, dim: int, width: int, *, output_gain: float) -> None:
        def matrices(key: jax.Array, inputs: int, outputs: int, gain: float) -> Float[Array, "E inputs outputs"]:
            keys = jax.random.split(key, number)
            return jax.vmap(lambda key: initial_matrix(key, inputs, outputs, gain=gain))(keys)

        up, gate, down = jax.random.split(key, 3)
        self.up = parameter(matrices(up, dim, width, 1.0), "expert", "embed", "mlp")
        self.gate = parameter(matrices(gate, dim, width, 1.0), "expert", "embed", "mlp")
        self.down = parameter(matrices(down, width, dim, output_gain), "expert", "mlp", "embed")

    def weights(self) -> grouped_ffn.Experts:
        return grouped_ffn.Experts(self.up.get_value(), self.down.get_value(), self.gate.get_value())


class Experts(nnx.Module):
    """The routed layer."""

    def __init__(
        self, key: jax.Array, dim: int, spec: DatasetSpec, config: ExpertsConfig, *, output_gain: float
    ) -> None:
        router_key, *class_keys = jax.random.split(key, 1 + len(config.multiples))
        self.config = config
        self.widths = tuple(max(8, 8 * round(dim * multiple / 8)) for multiple in config.multiples)
        self.router = Router(router_key, dim, spec, config.number)
        self.classes = nnx.Dict(
            {
                f"width_{number}": WidthClass(key, config.per_width, dim, width, output_gain=output_gain)
                for number, (key, width) in enumerate(zip(class_keys, self.widths, strict=True))
            }
        )

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], context: Context
    ) -> tuple[Float[Array, "R T D"], Routed]:
        """The layer's output (0 at padding), and where tokens went."""
        routed, real = self.router(x, context), segment > 0
        order = self.dispatch(routed, real)
        rows = grouped_ffn.take(x.reshape(-1, x.shape[-1]), order)
        rows = grouped_ffn.grouped_ffn(rows, order.counts, self.weights())
        weight = jnp.where(real[..., None], routed.weight, 0.0).astype(x.dtype)
        y = grouped_ffn.combine(rows, order, weight.reshape(-1, self.router.chosen)).reshape(x.shape)
        return y, routed

    def dispatch(self, routed: Routed, real: Bool[Array, "R T"]) -> grouped_ffn.Order:
        """Every choice of every real token is a row of its expert's; padding is no one's."""
        chosen = jnp.where(real[..., None], routed.chosen, -1)
        return grouped_ffn.sort_by_expert(chosen.reshape(-1, self.router.chosen), self.config.number)

    def weights(self) -> list[grouped_ffn.Experts]:
        """The experts' weights, one record a width class, in the order in which they are numbered."""
        return [self.classes[f"width_{number}"].weights() for number in range(len(self.widths))]
