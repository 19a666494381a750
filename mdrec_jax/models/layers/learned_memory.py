"""Learned memory: banks of keys and values that every token reads, whoever's it is.

After "Adaptive loops and memory in transformers" (arXiv 2603.08391): one bank local to each layer, one shared by all
layers, each read by attention with normed queries and keys behind a gate that starts open.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read

from mdrec_jax.models.layers.checks import check
from mdrec_jax.models.layers.linear import Linear, initial_matrix, initial_rows, matmul
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import Scope

OPEN = 3.0
"""What a gate's sigmoid starts at: nearly open."""


@dataclass(frozen=True)
class LearnedMemoryConfig:
    """
    Args:
        local: slots of the bank that each layer has for itself; 0 has none.
        shared: slots of the bank that all layers read; 0 has none.
    """

    local: int = 0
    shared: int = 0

    def __post_init__(self) -> None:
        for name in ("local", "shared"):
            check(f"learned_memory.{name}", getattr(self, name), getattr(self, name) >= 0, "a number of slots, >= 0")

    @property
    def used(self) -> bool:
        return self.local + self.shared > 0


class MemoryBank(nnx.Module):
    """Keys and values of a bank."""

    def __init__(self, key: jax.Array, slots: int, dim: int, *, scope: Scope) -> None:
        keys = jax.random.split(key)
        key, value = (initial_rows(key, slots, dim, scale=1.0) for key in keys)
        self.key = parameter(key, "slot", "embed", group="embedding", scope=scope)
        self.value = parameter(value, "slot", "embed", group="embedding", scope=scope)


class LearnedMemory(nnx.Module):
    """What one layer reads: gate_L * (m_local W_L) + gate_G * (m_shared W_G).

    The projections W are worked into the values, which are far fewer than the tokens.
    """

    def __init__(self, key: jax.Array, dim: int, config: LearnedMemoryConfig, *, output_gain: float) -> None:
        keys = jax.random.split(key, 5)
        self.local = MemoryBank(keys[0], config.local, dim, scope="private") if config.local else None
        self.scale = parameter(jnp.full((dim,), dim**-0.5), "embed", group="vector")

        def projection(key: jax.Array) -> nnx.Param:
            return parameter(initial_matrix(key, dim, dim, gain=output_gain), "embed", "embed_out")

        def gate(key: jax.Array) -> Linear:
            return Linear(key, dim, 1, ("embed", "gate"), gain=0.1, bias_value=OPEN)

        self.local_out, self.local_gate = (projection(keys[1]), gate(keys[2])) if config.local else (None, None)
        self.shared_out, self.shared_gate = (projection(keys[3]), gate(keys[4])) if config.shared else (None, None)

    def __call__(self, x: Float[Array, "R T D"], shared: MemoryBank | None) -> Float[Array, "R T D"]:
        reads = ((self.local, self.local_out, self.local_gate), (shared, self.shared_out, self.shared_gate))
        banks = [
            Bank(
                key=bank.key.get_value().astype(x.dtype),
                value=matmul(bank.value.get_value().astype(x.dtype), out.get_value().astype(x.dtype)),
                gate=gate(x)[..., 0],
            )
            for bank, out, gate in reads
            if bank is not None and out is not None and gate is not None
        ]
        return memory_bank_read(x, banks, scale=self.scale.get_value())
