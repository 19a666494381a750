"""`memory_bank_read` as kernels for TPUs: one forward, one backward.

All slots stay in VMEM while blocks of tokens pass by. The backward kernel adds up the gradients of keys and values in
VMEM too, transposed, so that what is transposed for the matrix unit is a block of queries and not one of scores. A gate
of one number a token travels with tokens in lanes: as a column it would take 128 times its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float
from mdrec_kernels import tpu
from mdrec_kernels.memory_bank_read import block
from mdrec_kernels.memory_bank_read.banks import MASKED, Bank, Slots, slots

FORWARD_ROWS, BACKWARD_ROWS = 512, 256
"""Tokens of a block, where they fit."""

FORWARD_SCORES, BACKWARD_SCORES = 3, 5
"""How many arrays as large as a block of float32 scores of one bank are live at once."""


@dataclass(frozen=True)
class _Plan:
    """The static side of a call: tokens of a block, forward and backward."""

    qk_norm: bool
    interpret: bool
    forward_rows: int
    backward_rows: int


def read(
    q: Float[Array, "T D"], banks: Sequence[Bank], scale: Float[Array, "1 d"], qk_norm: bool, rows: int | None
) -> Float[Array, "T D"]:
    """What `memory_bank_read` returns, for q of one leading axis.

    Raises:
        NotImplementedError: no TPU; float64; slots that do not fit into VMEM; `rows` not a multiple of 128.
    """
    interpret = tpu.interpret()
    if q.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"memory_bank_read: the TPU's kernels take float32 and bfloat16, not {q.dtype}")
    if rows is not None and rows % tpu.LANES:
        raise NotImplementedError(f"memory_bank_read: rows must be a multiple of {tpu.LANES}, found {rows}")
    if q.shape[0] == 0:
        return q
    held = tuple(_whole_lanes(slots(bank, scale, qk_norm, q.dtype)) for bank in banks)
    plan = _Plan(qk_norm, interpret, *(_fitting_rows(q, held, rows, backward) for backward in (False, True)))
    return _read(plan, q, held)


def _whole_lanes(one: Slots) -> Slots:
    """Slots filled up to whole lanes; those added are not in use."""
    missing = -one.key.shape[0] % tpu.LANES
    if not missing:
        return one
    bias = jnp.zeros((1, one.key.shape[0]), jnp.float32) if one.bias is None else one.bias
    bias = jnp.pad(bias, ((0, 0), (0, missing)), constant_values=MASKED)
    return replace(one, key=tpu.pad(one.key, 0), value=tpu.pad(one.value, 0), bias=bias)


def _fitting_rows(q: Array, banks: Sequence[Slots], rows: int | None, backward: bool) -> int:
    """The most tokens of a block that leave room in VMEM."""
    usual = rows or min(BACKWARD_ROWS if backward else FORWARD_ROWS, tpu.round_up(q.shape[0], tpu.LANES))
    while usual > tpu.LANES and rows is None:
        try:
            _params(q, banks, usual, backward)
            return usual
        except NotImplementedError:
            usual //= 2
    _params(q, banks, usual, backward)
    return usual


def _params(q: Array, banks: Sequence[Slots], rows: int, backward: bool) -> Any:
    width = q.shape[1]
    blocks = [((rows, width), q.dtype)] * (3 if backward else 2)
    for one in banks:
        blocks += [(one.key.shape, q.dtype)] * 2 + [((1, one.key.shape[0]), jnp.float32)]
        blocks += [((width, one.key.shape[0]), jnp.float32)] * (2 if backward else 0)
        if one.gate is not None:
            blocks += [((rows, one.gate.shape[1]), jnp.float32)] * (2 if backward else 1)
    slots = max(one.key.shape[0] for one in banks)
    live = [((rows, slots), jnp.float32)] * (BACKWARD_SCORES if backward else FORWARD_SCORES)
    live += [((rows, width), jnp.float32)] * (4 if backward else 2)
    axes: tuple[Literal["parallel", "arbitrary"], ...] = ("parallel", "arbitrary") if backward else ("parallel",)
    return tpu.compiler_params("memory_bank_read", axes, blocks=blocks, scratch=live)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read(plan: _Plan, q: Float[Array, "T D"], banks: tuple[Slots, ...]) -> Float[Array, "T D"]:
    rows = plan.forward_rows
    leaves, tree = jax.tree.flatten(tuple(_in_lanes(one, rows) for one in banks))

    def body(q_ref: Any, *refs: Any) -> None:
        held = [_loaded(one) for one in jax.tree.unflatten(tree, refs[:-1])]
        refs[-1][...] = block.forward(q_ref[...], held, plan.qk_norm).astype(q.dtype)

    tokens = pl.BlockSpec((rows, q.shape[1]), lambda i: (i, 0))
    return pl.pallas_call(
        body,
        grid=(pl.cdiv(q.shape[0], rows),),
        in_specs=[tokens, *jax.tree.leaves(tuple(_specs(one, rows, lambda i: i) for one in banks))],
        out_specs=tokens,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=_params(q, banks, rows, backward=False),
        interpret=plan.interpret,
        name="memory_bank_read",
    )(q, *leaves)


def _in_lanes(one: Slots, rows: int) -> Slots:
    """The bank with a gate of one number a token as [blocks, 1, rows]."""
    if one.gate is None or one.gate.shape[1] > 1:
        return one
    return replace(one, gate=tpu.pad(one.gate[:, 0].astype(jnp.float32), 0, rows).reshape(-1, 1, rows))


def _specs(one: Slots, rows: int, at: Any) -> Any:
    """`Slots` of the blocks of a bank's arrays: all slots, and the gates of the tokens of block `at(...)`."""

    def whole(x: Array | None) -> Any:
        return None if x is None else pl.BlockSpec(x.shape, lambda *_: (0, 0))

    gate: Any = None
    if one.gate is not None and one.gate.shape[1] > 1:
        gate = pl.BlockSpec((rows, one.gate.shape[1]), lambda *step: (at(*step), 0))
    elif one.gate is not None:
        gate = pl.BlockSpec((None, 1, rows), lambda *step: (at(*step), 0, 0))
    return replace(one, key=whole(one.key), value=whole(one.value), gate=gate, bias=whole(one.bias))


def _loaded(one: Slots) -> Slots:
    """A bank's arrays out of its references; a gate that lies in lanes as a column."""
    held = jax.tree.map(lambda ref: ref[...], one)
    if held.gate is not None and held.gate.shape[0] == 1:
        return replace(held, gate=jnp.broadcast_to(held.gate, (8, held.gate.shape[1])).T[:, :1])
    return held


def _forward(plan: _Plan, q: Array, banks: tuple[Slots, ...]) -> tuple[Array, tuple]:
    return _read(plan, q, banks), (q, banks)


def _backward(plan: _Plan, kept: tuple, d_out: Array) -> tuple[Array, tuple[Slots, ...]]:
    q, banks = kept
    tokens, width = q.shape
    rows = plan.backward_rows
    steps = pl.cdiv(tokens, rows)
    parts = 2 if steps % 2 == 0 else 1  # a TPU of two cores takes one each
    leaves, tree = jax.tree.flatten(tuple(_in_lanes(one, rows) for one in banks))

    def at(part: Any, i: Any) -> Any:
        return part * (steps // parts) + i

    def body(q_ref: Any, d_out_ref: Any, *refs: Any) -> None:
        i = pl.program_id(1)
        dq_ref, *outs = refs[len(leaves) :]
        own, d_own, held = (
            q_ref[...],
            d_out_ref[...],
            [_loaded(x) for x in jax.tree.unflatten(tree, refs[: len(leaves)])],
        )
        if tokens % rows:
            inside = at(pl.program_id(0), i) * rows + jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < tokens
            own, d_own = jnp.where(inside, own, 0), jnp.where(inside, d_own, 0)
            held = [x if x.gate is None else replace(x, gate=jnp.where(inside, x.gate, 0)) for x in held]
        dq, found = block.backward(own, d_own, held, plan.qk_norm)
        dq_ref[...] = dq.astype(q.dtype)
        for d_key, d_value, d_gate in found:
            for ref, value in zip((outs.pop(0), outs.pop(0)), (d_key, d_value), strict=True):
                ref[...] = jnp.where(i == 0, value, ref[...] + value)
            if d_gate is not None:
                _store_gate(outs.pop(0), d_gate)

    block_of_tokens = pl.BlockSpec((rows, width), lambda part, i: (at(part, i), 0))
    out_specs, out_shapes = [block_of_tokens], [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    for one in banks:
        size = (width, one.key.shape[0])
        out_specs += [pl.BlockSpec((None, *size), lambda part, i: (part, 0, 0))] * 2
        out_shapes += [jax.ShapeDtypeStruct((parts, *size), jnp.float32)] * 2
        gate = _in_lanes(one, rows).gate
        if gate is not None:
            out_specs.append(_specs(one, rows, at).gate)
            out_shapes.append(jax.ShapeDtypeStruct(gate.shape, gate.dtype))
    dq, *outs = pl.pallas_call(
        body,
        grid=(parts, steps // parts),
        in_specs=[block_of_tokens, block_of_tokens, *jax.tree.leaves(tuple(_specs(one, rows, at) for one in banks))],
        out_specs=out_specs,
        out_shape=out_shapes,
        compiler_params=_params(q, banks, rows, backward=True),
        interpret=plan.interpret,
        name="memory_bank_read_backward",
    )(q, d_out, *leaves)
    return dq, tuple(_gradient(one, outs) for one in banks)


def _store_gate(ref: Any, d_gate: Float[Array, "t C"]) -> None:
    if d_gate.shape[1] == 1:
        d_gate = jnp.broadcast_to(d_gate, (d_gate.shape[0], tpu.LANES)).T[:1]
    ref[...] = d_gate.astype(ref.dtype)


def _gradient(one: Slots, outs: list[Array]) -> Slots:
    """A bank's gradient out of the kernel's outputs, which it takes off the list."""
    d_key, d_value = (outs.pop(0).sum(0).T.astype(one.key.dtype) for _ in range(2))
    d_gate = None if one.gate is None else outs.pop(0)
    if one.gate is not None and d_gate is not None and one.gate.shape[1] == 1:
        d_gate = d_gate.reshape(-1)[: one.gate.shape[0], None].astype(one.gate.dtype)
    return Slots(d_key, d_value, d_gate, None if one.bias is None else jnp.zeros_like(one.bias))


_read.defvjp(_forward, _backward)
