"""External memory: learned banks that every token reads, and a user's own memory that is written as events pass.

The banks are those of "Adaptive loops and memory in transformers" (arXiv 2603.08391): one local to each layer, one
shared by all layers, each read by attention with normed queries and keys behind a gate that starts open. The written
memory has addressed slots that are read, erased and added to (Graves et al. 2014, "Neural Turing machines", section 3);
the other written memory stands in `delta_memory`.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read
from mdrec_kernels.slot_memory_scan import slot_memory_scan

from mdrec_jax.models import init
from mdrec_jax.models.checks import check, check_fields
from mdrec_jax.models.layers import Linear, at_least_float32, matmul, unit_rms
from mdrec_jax.models.pure import parameter
from mdrec_jax.types import Scope


@dataclass(frozen=True)
class BanksConfig:
    """
    Args:
        local: slots of the bank that each layer has for itself; 0 has none.
        shared: slots of the bank that all layers read; 0 has none.
        gate_bias: what a gate's sigmoid starts at; 3 is nearly open.
    """

    local: int = 0
    shared: int = 0
    gate_bias: float = 3.0

    def __post_init__(self) -> None:
        for name in ("local", "shared"):
            check(f"banks.{name}", getattr(self, name), getattr(self, name) >= 0, "a number of slots, >= 0")

    @property
    def used(self) -> bool:
        return self.local + self.shared > 0


@dataclass(frozen=True)
class WrittenConfig:
    """
    Args:
        mode: `none`: no such memory; `erase`: `slots` content-addressed vectors, committed chunk by chunk
            (`SlotMemory`); `delta`: behind attention's window, a matrix a head that follows the gated delta rule
            (`DeltaMemory`).
        slots: M, of `erase`.
        chunk: events a chunk.
        write_bias: what the sigmoid of a token's write strength starts at.
        keep_bias: what the sigmoid of the share that an event leaves of the memory starts at (`delta`). At 6, a third
            is left after 450 events; near 0, nothing is after ten, and what lies further back is never learned.
    """

    mode: Literal["none", "erase", "delta"] = "none"
    slots: int = 64
    chunk: int = 16
    write_bias: float = -2.0
    keep_bias: float = 6.0

    def __post_init__(self) -> None:
        check_fields(self, counts=("slots", "chunk"))


class SharedBank(nnx.Module):
    """Keys and values of a bank."""

    def __init__(self, key: jax.Array, slots: int, dim: int, *, scope: Scope) -> None:
        keys = jax.random.split(key)
        key, value = (init.embedding(key, slots, dim, scale=1.0) for key in keys)
        self.key = parameter(key, "slot", "embed", group="embedding", scope=scope)
        self.value = parameter(value, "slot", "embed", group="embedding", scope=scope)


class BankReads(nnx.Module):
    """What one layer reads: gate_L * (m_local W_L) + gate_G * (m_shared W_G).

    The projections W are worked into the values, which are far fewer than the tokens.
    """

    def __init__(self, key: jax.Array, dim: int, config: BanksConfig, *, output_gain: float) -> None:
        keys = jax.random.split(key, 5)
        self.local = SharedBank(keys[0], config.local, dim, scope="private") if config.local else None
        self.scale = parameter(jnp.full((dim,), dim**-0.5), "embed", group="vector")

        def projection(key: jax.Array) -> nnx.Param:
            return parameter(init.matrix(key, dim, dim, gain=output_gain), "embed", "embed")

        def gate(key: jax.Array) -> Linear:
            return Linear(key, dim, 1, ("embed", "gate"), gain=0.1, bias_value=config.gate_bias)

        self.local_out, self.local_gate = (projection(keys[1]), gate(keys[2])) if config.local else (None, None)
        self.shared_out, self.shared_gate = (projection(keys[3]), gate(keys[4])) if config.shared else (None, None)

    def __call__(self, x: Float[Array, "R T D"], shared: SharedBank | None) -> Float[Array, "R T D"]:
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


class SlotMemory(nnx.Module):
    """A user's memory of addressed slots, read by every event and written by every chunk of events; empty where a
    segment starts."""

    def __init__(self, key: jax.Array, dim: int, config: WrittenConfig, *, output_gain: float) -> None:
        keys = jax.random.split(key, 5)
        self.config, self.width = config, min(dim, 64)
        self.qk = Linear(keys[0], dim, 2 * self.width, ("embed", "slot_key"))
        self.value = Linear(keys[1], dim, dim, ("embed", "embed"))
        self.gates = Linear(keys[2], dim, 2, ("embed", "gate"), gain=0.1, bias_value=(config.write_bias, 0.0))
        self.out = Linear(keys[3], dim, dim, ("embed", "embed"), gain=output_gain)
        address = init.embedding(keys[4], config.slots, self.width, scale=1.0)
        self.address = parameter(address, "slot", "slot_key", group="embedding")

    def __call__(self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], segments: int) -> Float[Array, "R T D"]:
        """
        Args:
            x: states, normed.
            segment: as in `Batch`.
            segments: the most segments that a row has.
        """
        chunk = self.config.chunk
        to, back = aligned(segment, segments, chunk)
        q, k, value, write, erase = (placed(part, to) for part in self.tokens(x))
        slots = self.address.get_value().astype(x.dtype)
        read, _ = slot_memory_scan(q, k, value, placed(segment, to), write, slots=slots, erase=erase, chunk=chunk)
        return self.out(jnp.take_along_axis(read, back[..., None], axis=1))

    def tokens(self, x: Float[Array, "R T D"]) -> tuple[Array, Array, Array, Array, Array]:
        """Each token's query, key [R, T, K], value [R, T, D], strength of its write, and share it erases [R, T]."""
        q, k = (unit_rms(part) for part in jnp.split(self.qk(x), 2, axis=-1))
        write, erase = (jax.nn.sigmoid(part[..., 0]) for part in jnp.split(at_least_float32(self.gates(x)), 2, axis=-1))
        return q, k, self.value(x), write, erase


def aligned(segment: Int32[Array, "R T"], segments: int, chunk: int) -> tuple[Int32[Array, "R A"], Int32[Array, "R T"]]:
    """Places at which every segment starts at a multiple of `chunk`.

    Returns:
        The column that stands at each of A = T + segments * (chunk - 1) places, rounded up to chunks, T for none; and
        the place of each column. Padding has place A - 1, where nothing stands.
    """
    columns = segment.shape[1]
    places = -(-(columns + segments * (chunk - 1)) // chunk) * chunk + chunk
    number = jnp.arange(1, segments + 1, dtype=jnp.int32)
    length = jnp.sum(segment[:, :, None] == number[None, None, :], axis=1, dtype=jnp.int32)
    room = -(-length // chunk) * chunk
    moved = (jnp.cumsum(room, axis=1) - room) - (jnp.cumsum(length, axis=1) - length)
    column = jnp.arange(columns, dtype=jnp.int32)[None, :]
    real = segment > 0
    first = jnp.argmax(real, axis=1).astype(jnp.int32)[:, None]
    shift = jnp.take_along_axis(moved, jnp.maximum(segment - 1, 0), axis=1)
    back = jnp.where(real, column - first + shift, places - 1)
    rows = jnp.arange(segment.shape[0], dtype=jnp.int32)[:, None]
    to = jnp.full((segment.shape[0], places), columns, jnp.int32)
    return to.at[rows, back].set(jnp.where(real, jnp.broadcast_to(column, back.shape), columns)), back


def placed(x: Array, to: Int32[Array, "R A"]) -> Array:
    """x at its new places; zeros where nothing stands."""
    padded = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)
    return jnp.take_along_axis(padded, to.reshape(*to.shape, *(1,) * (x.ndim - 2)), axis=1)
