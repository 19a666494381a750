"""Inputs for the tests of `slot_memory_scan`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.slot_memory_scan import slot_memory_scan

MODES = ("erase", "delta")


def aligned(rows: list[list[int]], chunk: int, length: int) -> np.ndarray:
    """segment [R, T]: segments of the given lengths, each from a multiple of the chunk; a negative length is a gap."""
    segment = np.zeros((len(rows), length), np.int32)
    for r, lengths in enumerate(rows):
        at = 0
        for number, n in enumerate(lengths, 1):
            segment[r, at : at + max(n, 0)] = number
            at += -(-abs(n) // chunk) * chunk
    return segment


def make(mode: str, rows: int, length: int, *, K=6, V=5, M=7, seed=0, dtype="float32") -> dict[str, Any]:
    """Everything that gradients flow to."""
    rng = np.random.default_rng(seed)

    def normal(*shape, dtype="float32" if dtype == "bfloat16" else dtype):
        return jnp.asarray(rng.normal(size=shape), dtype)

    q, k, value = (normal(rows, length, n, dtype="float64" if dtype == "float64" else "float32") for n in (K, K, V))
    if mode == "delta":
        k, M = k / jnp.linalg.norm(k, axis=-1, keepdims=True), K
    found = {name: x.astype(dtype) for name, x in (("q", q), ("k", k), ("value", value))}
    found |= {"write": jax.nn.sigmoid(normal(rows, length)), "state": normal(rows, M, V)}
    if mode == "erase":
        return found | {"slots": normal(M, K), "erase": jax.nn.sigmoid(normal(rows, length))}
    return found | {"log_decay": -jax.nn.softplus(normal(rows, length) - 1)}


def scan(inputs, segment, mode, **options):
    return slot_memory_scan(segment=jnp.asarray(segment), mode=mode, **inputs, **options)


def value_and_gradients(inputs, segment, mode, **options):
    """Outputs and state, and the gradients of a sum of them."""
    rng = np.random.default_rng(9)

    def f(inputs):
        found = scan(inputs, segment, mode, **options)
        ahead = (jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in found)
        return sum(jnp.vdot(x, a).astype(found[1].dtype) for x, a in zip(found, ahead, strict=True)), found

    (_, found), gradients = jax.jit(jax.value_and_grad(f, has_aux=True))(inputs)
    return {"out": found[0], "end": found[1]} | gradients


def assert_close(got, expected, tolerance=2e-6):
    """Equal to within `tolerance` of the largest entry of each array."""
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert got[name].dtype == x.dtype, name
        largest = max(float(jnp.abs(x).max()), 1e-3)
        np.testing.assert_allclose(got[name] / largest, x / largest, atol=tolerance, rtol=0, err_msg=name)
