"""`grouped_ffn` in plain XLA: a loop over blocks of rows of one expert, gradients by hand.

The forward pass keeps the products of x and the entries, [T, f] of the widest class, as a dense layer of that width
would; everything else is of a block's size. The gradient of `down` is summed as [d, f] and turned once at the end:
XLA's CPU back end multiplies [rows, f]^T [rows, d] at half the speed of [rows, d]^T [rows, f].

Where blocks are taken together (on accelerators), a scatter adds the shares of blocks of one expert: on a GPU its
order, and with it the last bit of the weights' gradients, is fixed under `--xla_gpu_deterministic_ops=true` alone.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from mdrec_kernels.grouped_ffn.blocks import Blocks, Tiling, Window, plan
from mdrec_kernels.grouped_ffn.experts import Experts, bounds, hidden
from mdrec_kernels.linear_xent.blocks import zeros

type Scores = tuple[Float[Array, "T f"], ...]
"""Products of x and the entries, in the columns up to the width of the row's class."""


def _product(a: Float[Array, "g m k"], b: Array, over: tuple[int, int]) -> Float[Array, "g m n"]:
    """Batched product over axis `over[0]` of a and `over[1]` of b, summed in float32 at least."""
    sums = np.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((0,), (0,))), preferred_element_type=sums)


def _sweep[Carry](
    body: Callable[[Window, Carry], Carry],
    carry: Carry,
    bound: tuple[Int[Array, "E"], Int[Array, "E"]],
    length: int,
    tiling: Tiling,
) -> Carry:
    """The carry after all blocks of a class."""
    for blocks, rows, together in plan(*bound, length, tiling):

        def step(i: Array, carry: Carry, blocks: Blocks = blocks, rows: int = rows, together: int = together) -> Carry:
            part = partial(lax.dynamic_slice_in_dim, start_index=i * together, slice_size=together)
            return body(Window(part(blocks.expert), part(blocks.start), part(blocks.stop), rows), carry)

        steps = blocks.number if together == 1 else blocks.expert.size // together
        carry = lax.fori_loop(0, steps, step, carry)
    return carry


def _forward(
    x: Float[Array, "T d"],
    counts: Int[Array, "E"],
    classes: tuple[Experts, ...],
    activation: str,
    tiling: Tiling,
    *,
    keep: bool,
) -> tuple[Float[Array, "T d"], Scores]:
    """The outputs, and if `keep` what the backward pass needs beside the arguments."""
    widest = max(experts.width for experts in classes)
    kept = max(len(experts.entries) for experts in classes) if keep else 0
    carry = zeros(x.shape, x.dtype, x), tuple(zeros((x.shape[0], widest), x.dtype, x) for _ in range(kept))
    for experts, bound in zip(classes, bounds(counts, classes), strict=True):

        def body(window: Window, carry: tuple[Array, Scores], experts: Experts = experts) -> tuple[Array, Scores]:
            out, saved = carry
            rows = window.take(x)
            scores = tuple(_product(rows, window.pick(w, x.dtype), (2, 1)) for w in experts.entries)
            inner = hidden(activation, scores).astype(x.dtype)
            out = window.put(out, _product(inner, window.pick(experts.down, x.dtype), (2, 1)))
            used = tuple(window.put(a, s) for a, s in zip(saved, scores, strict=False))
            return out, used + saved[len(used) :]

        carry = _sweep(body, carry, bound, x.shape[0], tiling)
    return carry


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def forward(
    x: Float[Array, "T d"], counts: Int[Array, "E"], classes: tuple[Experts, ...], activation: str, tiling: Tiling
) -> Float[Array, "T d"]:
    """The outputs; see `reference.forward`."""
    return _forward(x, counts, classes, activation, tiling, keep=False)[0]


def _save(
    x: Array, counts: Array, classes: tuple[Experts, ...], activation: str, tiling: Tiling
) -> tuple[Array, tuple]:
    out, scores = _forward(x, counts, classes, activation, tiling, keep=True)
    return out, (x, counts, classes, scores)


def _backward(activation: str, tiling: Tiling, saved: tuple, dy: Float[Array, "T d"]) -> tuple:
    x, counts, classes, scores = saved
    dx, found = zeros(x.shape, x.dtype, x), []
    for experts, bound in zip(classes, bounds(counts, classes), strict=True):
        body = partial(_block_gradient, x, dy, scores, experts, activation)
        sums = np.promote_types(x.dtype, jnp.float32)
        weights = tuple(zeros(experts.up.shape, sums, x) for _ in (*experts.entries, experts.down))
        dx, (down, *entries) = _sweep(body, (dx, weights), bound, x.shape[0], tiling)
        found.append(experts.like(tuple(entries), down.swapaxes(1, 2)))
    return dx, None, tuple(found)


def _block_gradient(
    x: Float[Array, "T d"],
    dy: Float[Array, "T d"],
    saved: Scores,
    experts: Experts,
    activation: str,
    window: Window,
    carry: tuple[Array, tuple[Array, ...]],
) -> tuple[Array, tuple[Array, ...]]:
    """The carry with a block's part: its rows of dx, its share of the gradients of `down`, turned, and the entries."""
    dx, (down, *entries) = carry
    rows, drows = window.take(x), window.take(dy)
    sums = np.promote_types(x.dtype, jnp.float32)
    scores = tuple(window.take(s, experts.width).astype(sums) for s in saved[: len(experts.entries)])
    inner, pull = jax.vjp(partial(hidden, activation), scores)
    (dscores,) = pull(_product(drows, window.pick(experts.down, x.dtype), (2, 2)))
    dscores = tuple(d.astype(x.dtype) for d in dscores)
    down = window.add(down, _product(drows, inner.astype(x.dtype), (1, 1)))
    entries = tuple(window.add(e, _product(rows, d, (1, 1))) for e, d in zip(entries, dscores, strict=True))
    parts = [_product(d, window.pick(w, x.dtype), (2, 2)) for d, w in zip(dscores, experts.entries, strict=True)]
    return window.put(dx, sum(parts[1:], parts[0])), (down, *entries)


forward.defvjp(_save, _backward)
