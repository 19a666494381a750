"""Packed attention as kernels for TPUs: one forward, one for all gradients; tiles that no query needs cost nothing.

Beside the output only log sum exp is kept for the backward pass (softmax). Reads every query, key and value once, and
writes every result once: a row stays on chip while its tiles are computed.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels import tpu
from mdrec_kernels.packed_attention import tpu_layout
from mdrec_kernels.packed_attention.plan import Tiling
from mdrec_kernels.packed_attention.spec import Places, Spec, Weights
from mdrec_kernels.packed_attention.tpu_backward import backward, check_room
from mdrec_kernels.packed_attention.tpu_call import Call
from mdrec_kernels.packed_attention.tpu_forward import forward


def attend(spec: Spec, weights: Weights, places: Places, tiling: Tiling | None) -> Float[Array, "R T H K"]:
    """What `packed_attention` returns.

    Raises:
        NotImplementedError: float64 on a TPU, a tile that is not 128 wide on a TPU, rows that do not fit on chip,
            or values that `jax.shard_map` keeps track of (`check_vma=True`).
    """
    interpret = tpu.interpret()
    tile = tpu.LANES if tiling is None else tiling.block
    if not interpret and tile != tpu.LANES:
        raise NotImplementedError(f"packed_attention: tiles are {tpu.LANES} wide on a TPU, found {tile}")
    if not interpret and weights.q.dtype == jnp.float64:
        raise NotImplementedError("packed_attention: a TPU has no float64")
    if tpu.varying(weights, places):
        raise NotImplementedError("packed_attention: a kernel inside jax.shard_map needs check_vma=False")
    if weights.time_bias is not None:  # no int32 falls into a later bucket
        weights = replace(weights, time_bias=weights.time_bias[:, : tpu_layout.LARGEST_TABLE])
    check_room(_call(spec, tile, interpret, weights, places))
    return _attend(spec, tile, interpret, weights, places)


def _call(spec: Spec, tile: int, interpret: bool, weights: Weights, places: Places) -> Call:
    sizes = tpu_layout.layout(weights.q.shape, spec.window, tile)
    return Call(spec, sizes, interpret, weights, places)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(spec: Spec, tile: int, interpret: bool, weights: Weights, places: Places) -> Float[Array, "R T H K"]:
    return _attend_forward(spec, tile, interpret, weights, places)[0]


def _attend_forward(spec: Spec, tile: int, interpret: bool, weights: Weights, places: Places) -> tuple:
    call = _call(spec, tile, interpret, weights, places)
    out, log_sum = forward(call)
    return tpu_layout.unfold(out, weights.q.shape), (weights, places, out, log_sum)


def _attend_backward(spec: Spec, tile: int, interpret: bool, kept: tuple, d_out: Array) -> tuple[Weights, None]:
    weights, places, out, log_sum = kept
    call = _call(spec, tile, interpret, weights, places)
    return backward(call, out, log_sum, d_out), None


_attend.defvjp(_attend_forward, _attend_backward)
