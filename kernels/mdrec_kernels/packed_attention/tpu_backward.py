"""The backward kernel: every tile's scores once more, and from them all gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float
from mdrec_kernels.packed_attention import tpu_layout
from mdrec_kernels.packed_attention.spec import Weights
from mdrec_kernels.packed_attention.tpu_call import Call, Kernel, Operand
from mdrec_kernels.packed_attention.tpu_tile import (
    DOWN,
    Inputs,
    Place,
    buckets,
    diagonal_sums,
    drop,
    product,
    scores,
    visible,
)


def backward(call: Call, out: Array, log_sum: Array | None, d_out: Float[Array, "R T H K"]) -> Weights:
    """The gradient of everything in `call.weights`."""
    sizes, weights = call.sizes, call.weights
    rows = call.rows(d_out), call.rows(out)
    kernel = _kernel(call, *rows, None if log_sum is None else call.log_sum(log_sum))

    def body(inputs: Inputs, known: dict[str, Any], scratch: tuple) -> None:
        _step(call, inputs, known, *scratch)

    found = call.run(kernel, body)
    dq, dk, dv = (tpu_layout.unfold(found[name], weights.q.shape) for name in ("dq", "dk", "dv"))
    position = time = None
    if weights.position_bias is not None:
        sums, distances = _all_heads(found["d_diagonals"], weights.position_bias), weights.position_bias.shape[1]
        position = tpu_layout.diagonals_gradient(sums, sizes, distances).astype(weights.position_bias.dtype)
    if weights.time_bias is not None:
        time = _all_heads(found["d_buckets"], weights.time_bias).sum((2, 3)).astype(weights.time_bias.dtype)
    return Weights(dq, dk, dv, position, time)


def check_room(call: Call) -> None:
    """Nothing, where the kernel can run: to be asked before the forward pass, when there is still a choice.

    Raises:
        NotImplementedError: a row does not fit on chip.
    """
    call.parameters(_kernel(call, call.empty_rows(), call.empty_rows(), call.log_sum()))


def _kernel(call: Call, d_out: Operand, out: Operand, log_sum: Operand | None) -> Kernel:
    sizes, weights = call.sizes, call.weights
    more = {"d_out": d_out}
    if call.spec.mode == "softmax" and log_sum is not None:
        more |= {"out": out, "log_sum": log_sum}
    outputs = {name: call.empty_rows() for name in ("dq", "dk", "dv")}
    if weights.position_bias is not None:
        outputs["d_diagonals"] = _sums_of(call, weights.position_bias, (sizes.bands, 1, 2 * sizes.tile))
    if weights.time_bias is not None:
        outputs["d_buckets"] = _sums_of(call, weights.time_bias, (call.buckets, 1, sizes.tile))
    whole = (sizes.step_rows, sizes.length, sizes.lanes)
    sums = [(whole, call.sums)] * 2
    return Kernel("packed_attention_gradient", more, outputs, sums, live=6, adds_rows=len(outputs) > 3)


def _sums_of(call: Call, table: Array, shape: tuple[int, ...]) -> Operand:
    """Sums for the gradient of a table [1 or H, ...]: a part for each group of heads, added to by all its rows."""
    heads = 1 if table.shape[0] == 1 else call.sizes.together
    value = jax.ShapeDtypeStruct((call.sizes.groups, heads, *shape), call.sums)
    return Operand(value, (1, heads, *shape), lambda g, r, *_: (g, 0, 0, 0, 0))


def _all_heads(sums: Float[Array, "G heads ..."], table: Array) -> Float[Array, "h ..."]:
    """The groups' sums side by side, or added up where all heads share the table."""
    return sums.sum(0) if table.shape[0] == 1 else sums.reshape(table.shape[0], *sums.shape[2:])


def _step(call: Call, inputs: Inputs, known: dict[str, Any], dk: Any, dv: Any) -> None:
    """A step of the grid: some rows, some heads. `dk` and `dv` are sums in float32."""
    dk[...], dv[...] = jnp.zeros(dk.shape, dk.dtype), jnp.zeros(dv.shape, dv.dtype)
    tables = [known[name] for name in ("d_diagonals", "d_buckets") if name in known]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for table in tables:
            table[...] = jnp.zeros(table.shape, table.dtype)

    call.for_each_block(lambda at: _block(call, inputs, known, at, dk, dv))
    known["dk"][...] = (dk[...] * call.spec.scale).astype(known["dk"].dtype)
    known["dv"][...] = dv[...].astype(known["dv"].dtype)


def _block(call: Call, inputs: Inputs, known: dict[str, Any], at: Place, dk: Any, dv: Any) -> None:
    """All heads of a step for one block of queries."""
    sizes, heads = call.sizes, range(call.sizes.together)
    own = [(call.part(inputs.q, at, at.query, head), *_output(call, known, at, head)) for head in heads]

    def meet(at: Place, dq: list[Array]) -> list[Array]:
        seen = visible(inputs, at, sizes.tile)
        bucket = None if inputs.table is None else buckets(inputs, at, sizes.tile, call.buckets)
        d_scores = []
        for head, (q, d_out, log_sum, inner) in enumerate(own):
            k, v = (call.part(x, at, at.key, head) for x in (inputs.k, inputs.v))
            found = scores(call.spec, inputs, at, head, q, k, seen, bucket)
            d_weight = drop(call.spec, inputs, at, head, product(v, d_out, (1, 1)))
            weight, slope = _slopes(call, found, log_sum, inner, d_weight)
            weight = drop(call.spec, inputs, at, head, weight).astype(v.dtype)
            narrow, keys = slope.astype(v.dtype), call.slice(at, at.key, head)
            dk[keys] += product(narrow, q, (1, 0))
            dv[keys] += product(weight, d_out, (1, 0))
            dq = [*dq[:head], dq[head] + product(narrow, k, (DOWN, 0)), *dq[head + 1 :]]
            d_scores.append(slope)
        _add_to_tables(known, at, d_scores, bucket)
        return dq

    start = [jnp.zeros((sizes.tile, sizes.width), call.sums) for _ in heads]
    for head, dq in enumerate(call.for_each_tile(inputs, at, meet, start)):
        known["dq"][call.slice(at, at.query, head)] = (dq * call.spec.scale).astype(known["dq"].dtype)


def _output(call: Call, known: dict[str, Any], at: Place, head: int) -> tuple[Array, Array | None, Array | None]:
    """Of a block of queries: the output's gradient, log sum exp, and the output times its gradient."""
    d_out = call.part(known["d_out"], at, at.query, head)
    if call.spec.mode == "silu":
        return d_out, None, None
    out = call.part(known["out"], at, at.query, head)
    inner = (out.astype(call.sums) * d_out.astype(call.sums)).T.sum(DOWN, keepdims=True)
    return d_out, known["log_sum"][at.row, 0, at.query, head : head + 1, :], inner


def _slopes(
    call: Call, found: Array, log_sum: Array | None, inner: Array | None, d_weight: Array
) -> tuple[Float[Array, "s t"], Float[Array, "s t"]]:
    """The weights again, and the gradient of the scores from that of the weights."""
    if log_sum is not None and inner is not None:
        weight = jnp.exp(found - log_sum)
        return weight, weight * (d_weight - inner)
    gate = jax.nn.sigmoid(found)
    share = gate * (1 / call.spec.normalizer)
    return found * share, share * (1 + found * (1 - gate)) * d_weight


def _add_to_tables(known: dict[str, Any], at: Place, d_scores: list[Array], bucket: Array | None) -> None:
    """Add a tile's part of the gradients of the biases."""
    for name in ("d_diagonals", "d_buckets"):
        if name not in known:
            continue
        sums = known[name]
        for head, slope in enumerate(d_scores if sums.shape[1] > 1 else [sum(d_scores[1:], d_scores[0])]):
            if name == "d_diagonals":
                sums[0, head, at.query - at.key] += diagonal_sums(slope)
            elif bucket is not None:
                _add_by_bucket(sums, head, slope, bucket)


def _add_by_bucket(sums: Any, head: int, slope: Float[Array, "s t"], bucket: Array) -> None:
    def add(n: Array, _: None) -> None:
        sums[0, head, n] += jnp.where(bucket == n, slope, 0).sum(DOWN, keepdims=True)

    lax.fori_loop(jnp.int32(0), jnp.int32(sums.shape[2]), add, None)
