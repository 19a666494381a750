"""The forward kernel: an online softmax, or the pointwise weights of HSTU, over the tiles of each block of queries."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from mdrec_kernels.packed_attention.spec import MASKED
from mdrec_kernels.packed_attention.tpu_call import Call, Kernel
from mdrec_kernels.packed_attention.tpu_tile import DOWN, Inputs, Place, buckets, drop, product, scores, silu, visible

type Online = tuple[Float[Array, "1 t"], Float[Array, "1 t"], Float[Array, "K t"]]
"""Of each query: the largest score so far, the sum of exponentials below it, and the weighted sum of values."""


def forward(call: Call) -> tuple[Float[Array, "R T lanes"], Float[Array, "R G n h t"] | None]:
    """The output, and log sum exp of the scores (softmax)."""
    outputs = {"out": call.empty_rows()}
    if call.spec.mode == "softmax":
        outputs["log_sum"] = call.log_sum()

    def body(inputs: Inputs, known: dict[str, Any], _scratch: tuple) -> None:
        call.for_each_block(lambda at: _block(call, inputs, at, known["out"], known.get("log_sum")))

    found = call.run(Kernel("packed_attention", {}, outputs, [], live=4), body)
    return found["out"], found.get("log_sum")


def _block(call: Call, inputs: Inputs, at: Place, out: Any, log_sum: Any | None) -> None:
    """All heads of a step for one block of queries."""
    heads, tile = range(call.sizes.together), call.sizes.tile
    queries = [call.part(inputs.q, at, at.query, head) for head in heads]
    line = jnp.zeros((1, tile), call.sums)
    start = [(line + MASKED / 2, line, jnp.zeros((call.sizes.width, tile), call.sums)) for _ in heads]

    def meet(at: Place, state: list[Online]) -> list[Online]:
        seen = visible(inputs, at, tile)
        bucket = None if inputs.table is None else buckets(inputs, at, tile, call.buckets)
        return [_meet(call, inputs, at, head, queries[head], seen, bucket, state[head]) for head in heads]

    for head, (largest, total, summed) in enumerate(call.for_each_tile(inputs, at, meet, start)):
        if log_sum is not None:
            total = jnp.where(total > 0, total, 1)
            summed = summed * (1 / total)
            log_sum[at.row, 0, at.query, head : head + 1, :] = largest + jnp.log(total)
        out[call.slice(at, at.query, head)] = summed.T.astype(out.dtype)


def _meet(
    call: Call, inputs: Inputs, at: Place, head: int, q: Array, seen: Array, bucket: Array | None, state: Online
) -> Online:
    """The queries' sums, and one more tile of keys."""
    largest, total, summed = state
    k, v = (call.part(x, at, at.key, head) for x in (inputs.k, inputs.v))
    found = scores(call.spec, inputs, at, head, q, k, seen, bucket)
    if call.spec.mode == "silu":
        weight = silu(found) * (1 / call.spec.normalizer)
        return largest, total, summed + _values(call, inputs, at, head, v, weight)
    new = jnp.maximum(largest, found.max(DOWN, keepdims=True))
    weight, shrunk = jnp.exp(found - new), jnp.exp(largest - new)
    total = total * shrunk + weight.sum(DOWN, keepdims=True)
    return new, total, summed * shrunk + _values(call, inputs, at, head, v, weight)


def _values(call: Call, inputs: Inputs, at: Place, head: int, v: Array, weight: Array) -> Float[Array, "K t"]:
    return product(v, drop(call.spec, inputs, at, head, weight).astype(v.dtype), (DOWN, DOWN))
