"""A mixture of feed-forward experts of several widths in place of a block's feed-forward layer.

Experts of different size after HMoE (arXiv 2408.10681); top-k routing with the load-balance loss of Switch Transformers
(arXiv 2101.03961, equation 4) and the router z-loss of ST-MoE (arXiv 2202.08906, equation 5). Dispatch is exact: there
is no capacity and no token is dropped.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32
from mdrec_kernels import grouped_ffn

from mdrec_jax.models import init
from mdrec_jax.models.checks import check
from mdrec_jax.models.layers import Linear, at_least_float32
from mdrec_jax.models.pure import parameter


@dataclass(frozen=True)
class ExpertsConfig:
    """
    Args:
        each: experts of each width; 0 keeps the dense feed-forward layer.
        multiples: hidden widths over `dim`, one width class each.
        top_k: experts that a token goes to.
        balance: weight of the load-balance loss, a token.
        z: weight of the router z-loss, a token.
        cost: weight of the expected hidden width over the widest, a token: it draws tokens to narrow experts.
    """

    each: int = 0
    multiples: tuple[float, ...] = (1.0, 2.0, 4.0)
    top_k: int = 2
    balance: float = 0.01
    z: float = 1e-3
    cost: float = 0.0

    def __post_init__(self) -> None:
        check("experts.each", self.each, self.each >= 0, "a number of experts, >= 0")
        positive = bool(self.multiples) and all(multiple > 0 for multiple in self.multiples)
        check("experts.multiples", self.multiples, positive, "widths > 0")
        most = max(self.number, 1)
        check("experts.top_k", self.top_k, self.top_k >= 1 and (not self.each or self.top_k <= most), f"1 to {most}")
        for name in ("balance", "z", "cost"):
            check(f"experts.{name}", getattr(self, name), getattr(self, name) >= 0, ">= 0")

    @property
    def number(self) -> int:
        return self.each * len(self.multiples)


class WidthClass(nnx.Module):
    """Weights of the experts of one width."""

    def __init__(self, key: jax.Array, number: int, dim: int, width: int, *, output_gain: float) -> None:
        def matrices(key: jax.Array, inputs: int, outputs: int, gain: float) -> Float[Array, "E inputs outputs"]:
            keys = jax.random.split(key, number)
            return jax.vmap(lambda key: init.matrix(key, inputs, outputs, gain=gain))(keys)

        up, gate, down = jax.random.split(key, 3)
        self.up = parameter(matrices(up, dim, width, 1.0), "expert", "embed", "mlp")
        self.gate = parameter(matrices(gate, dim, width, 1.0), "expert", "embed", "mlp")
        self.down = parameter(matrices(down, width, dim, output_gain), "expert", "mlp", "embed")

    def weights(self) -> grouped_ffn.Experts:
        return grouped_ffn.Experts(self.up.get_value(), self.down.get_value(), self.gate.get_value())


class Experts(nnx.Module):
    """The routed layer. Its router sees a token's state and domain, and nothing of other users."""

    def __init__(self, key: jax.Array, dim: int, domains: int, config: ExpertsConfig, *, output_gain: float) -> None:
        router_key, domain_key, *class_keys = jax.random.split(key, 2 + len(config.multiples))
        self.config = config
        self.widths = tuple(max(8, 8 * round(dim * multiple / 8)) for multiple in config.multiples)
        self.router = Linear(router_key, dim, config.number, ("embed", "expert"))
        bias = init.embedding(domain_key, domains, config.number, scale=0.02)
        self.domain = parameter(bias, "domain", "expert", group="embedding", scope="private")
        self.classes = nnx.Dict(
            {
                f"width_{number}": WidthClass(key, config.each, dim, width, output_gain=output_gain)
                for number, (key, width) in enumerate(zip(class_keys, self.widths, strict=True))
            }
        )

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], domain: Int32[Array, "R T"]
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""]]:
        """The layer's output, and its losses: a sum over tokens."""
        logits = at_least_float32(self.router(x))
        logits = logits + self.domain.get_value().astype(logits.dtype)[domain]
        best, expert = jax.lax.top_k(logits, self.config.top_k)
        real = segment > 0
        order = grouped_ffn.sort_by_expert(
            jnp.where(real[..., None], expert, -1).reshape(-1, self.config.top_k), self.config.number
        )
        rows = grouped_ffn.take(x.reshape(-1, x.shape[-1]), order)
        rows = grouped_ffn.grouped_ffn(rows, order.counts, self.weights())
        weight = jax.nn.softmax(best, axis=-1).astype(x.dtype).reshape(-1, self.config.top_k)
        weight = jnp.where(real.reshape(-1, 1), weight, jnp.zeros((), x.dtype))
        y = grouped_ffn.combine(rows, order, weight).reshape(x.shape)
        return y, self._losses(logits, expert, real)

    def weights(self) -> list[grouped_ffn.Experts]:
        """The experts' weights, one record a width class, in the order in which they are numbered."""
        return [self.classes[f"width_{number}"].weights() for number in range(len(self.widths))]

    def _losses(self, logits: Float[Array, "R T E"], expert: Int32[Array, "R T k"], real: Array) -> Float[Array, ""]:
        """The balance is taken row by row, so that the sum does not depend on how rows are spread over devices."""
        config, number = self.config, self.config.number
        tokens = real.astype(logits.dtype)
        count = jnp.maximum(tokens.sum(1), 1.0)[:, None]
        probability = jax.nn.softmax(logits, axis=-1) * tokens[..., None]
        sent = jax.nn.one_hot(expert, number, dtype=logits.dtype).sum(2) * tokens[..., None] / config.top_k
        balance = number * (sent.sum(1) / count * (probability.sum(1) / count)).sum(-1) * tokens.sum(1)
        z = jnp.square(jax.nn.logsumexp(logits, axis=-1)) * tokens
        wide = jnp.repeat(jnp.asarray(self.widths, logits.dtype) / max(self.widths), config.each)
        cost = (probability * wide[None, None, :]).sum()
        return config.balance * balance.sum() + config.z * z.sum() + config.cost * cost
