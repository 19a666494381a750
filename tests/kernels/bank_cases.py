"""Queries and banks for the tests of `memory_bank_read`."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels import tpu
from mdrec_kernels.memory_bank_read import Bank, memory_bank_read

type GateKind = Literal["token", "channel"] | None


def draw(
    T: int = 200, slots: tuple[int, ...] = (70, 33), D: int = 64, gate: GateKind = "token", seed: int = 0
) -> tuple[jax.Array, tuple[Bank, ...], jax.Array, jax.Array]:
    """q, banks of which the first has slots that are not in use, a scale for each channel, weights of the outputs."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    gates: dict[GateKind, tuple[int, ...]] = {"token": (T,), "channel": (T, D)}
    banks = tuple(
        Bank(
            normal(M, D),
            normal(M, D),
            normal(*gates[gate]) if gate else None,
            jnp.arange(M) % 3 > 0 if i == 0 else None,
        )
        for i, M in enumerate(slots)
    )
    return normal(T, D), banks, jnp.abs(normal(D)) * D**-0.5, normal(T, D)


def read(q: jax.Array, banks: tuple[Bank, ...], implementation: str, **options: Any) -> jax.Array:
    """`memory_bank_read`, kernels interpreted."""
    with tpu.interpreted():
        return memory_bank_read(q, banks, implementation=implementation, **options)


def read_and_gradients(
    q: jax.Array, banks: tuple[Bank, ...], scale: jax.Array, weight: jax.Array, implementation: str, **options: Any
) -> dict[str, jax.Array]:
    """The output, and the gradient of its weighted sum in everything that has one."""
    allowed = [bank.allowed for bank in banks]

    def loss(q, held, scale):
        whole = tuple(Bank(*parts, one) for parts, one in zip(held, allowed, strict=True))
        out = read(q, whole, implementation, scale=scale, **options)
        return jnp.vdot(out.astype(weight.dtype), weight), out

    held = tuple((bank.key, bank.value, bank.gate) for bank in banks)
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), (dq, d_held, d_scale) = gradient(q, held, scale)
    found = {"out": out, "q": dq, "scale": d_scale}
    for i, parts in enumerate(d_held):
        named = zip(("key", "value", "gate"), parts, strict=True)
        found |= {f"{name} {i}": part for name, part in named if part is not None}
    return found


def error(found: jax.Array, expected: jax.Array) -> float:
    """The distance over the length of what was expected."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))
