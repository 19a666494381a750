"""Inputs for the tests of `delta_memory_scan`."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdrec_kernels.delta_memory_scan import delta_memory_scan


def aligned(rows: list[list[int]], chunk: int, length: int) -> np.ndarray:
    """segment [R, T]: segments of the given lengths, each from a multiple of the chunk; a negative length is a gap."""
    segment = np.zeros((len(rows), length), np.int32)
    for r, lengths in enumerate(rows):
        at = 0
        for number, n in enumerate(lengths, 1):
            segment[r, at : at + max(n, 0)] = number
            at += -(-abs(n) // chunk) * chunk
    return segment


def make(rows: int, length: int, *, K=6, V=5, seed=0, dtype="float32") -> dict[str, Any]:
    """Everything that gradients flow to."""
    rng, wide = np.random.default_rng(seed), "float32" if dtype == "bfloat16" else dtype
    q, k, value = (rng.normal(size=(rows, length, n)) for n in (K, K, V))
    write, fade = (1 / (1 + np.exp(-rng.normal(size=(rows, length)))) for _ in range(2))
    k = k / np.linalg.norm(k, axis=-1, keepdims=True)
    found = {name: jnp.asarray(x, dtype) for name, x in (("q", q), ("k", k), ("value", value))}
    found |= {"write": jnp.asarray(write, wide), "state": jnp.asarray(rng.normal(size=(rows, K, V)), wide)}
    return found | {"log_decay": jnp.asarray(np.log(fade), wide)}


@cache
def _scan(options):
    return jax.jit(lambda inputs, segment: delta_memory_scan(segment=segment, **inputs, **dict(options)))


def scan(inputs, segment, **options):
    """Outputs and state; compiled once for all tests that ask alike."""
    return _scan(tuple(options.items()))(inputs, jnp.asarray(segment))


@cache
def _step(tile, options):
    def f(inputs, segment):
        found, rng = delta_memory_scan(segment=segment, **inputs, **dict(options)), np.random.default_rng(9)
        ahead = (jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in found)
        return sum(jnp.vdot(x, a).astype(found[1].dtype) for x, a in zip(found, ahead, strict=True)), found

    return jax.jit(jax.value_and_grad(f, has_aux=True))


def value_and_gradients(inputs, segment, tile=None, **options):
    """Outputs and state, and the gradients of a sum of them; `tile` for one that a test has put into the xla form."""
    (_, found), gradients = _step(tile, tuple(options.items()))(inputs, jnp.asarray(segment))
    return {"out": found[0], "end": found[1]} | gradients


def assert_close(got, expected, tolerance=2e-6):
    """Equal to within `tolerance` of the largest entry of each array, and numbers all of them."""
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert got[name].dtype == x.dtype, name
        largest = max(float(jnp.abs(x).max()), 1e-3)
        assert np.isfinite(x).all(), name
        np.testing.assert_allclose(got[name] / largest, x / largest, atol=tolerance, rtol=0, err_msg=name)
