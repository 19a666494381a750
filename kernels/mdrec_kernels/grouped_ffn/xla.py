"""`grouped_ffn` in plain XLA: loops over blocks of rows of one expert, gradients by hand.

The forward pass keeps the products of x and the entries, [T, f] of the widest class, as a dense layer of that width
would; everything else is of a block's size. The gradient of `down` is summed as [d, f] and turned once at the end:
XLA's CPU back end multiplies [rows, f]^T [rows, d] at half the speed of [rows, d]^T [rows, f].

Where blocks are taken together (on accelerators), a scatter adds the shares of blocks of one expert: on a GPU its
order, and with it the last bit of the weights' gradients, is fixed under `--xla_gpu_deterministic_ops=true` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from mdrec_kernels.grouped_ffn.blocks import Tiling, Window, cut, turns
from mdrec_kernels.grouped_ffn.experts import Experts, bounds, hidden
from mdrec_kernels.varying import zeros

type Weights = tuple[Float[Array, "g a b"], ...]
"""The entries and `down`, of some experts."""
type Scores = tuple[Float[Array, "T f"], ...]
"""Products of x and the entries, in the columns up to the width of the row's class."""


def _product(a: Float[Array, "g m k"], b: Array, over: tuple[int, int]) -> Float[Array, "g m n"]:
    """Batched product over axis `over[0]` of a and `over[1]` of b, summed in float32 at least."""
    sums = np.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((0,), (0,))), preferred_element_type=sums)


@dataclass(frozen=True)
class _Sweep[Carry]:
    """A pass over the rows of a class, block by block.

    Args:
        body: (blocks, their experts' weights, carry) -> (carry, the blocks' shares of each of the class's sums).
        weights: each of the class, in the type in which they are multiplied.
        dtype: that type.
        length: of the arrays of rows.
    """

    body: Callable[[Window, Weights, Carry], tuple[Carry, Weights]]
    weights: Weights
    dtype: jnp.dtype
    length: int

    def run(
        self, carry: Carry, sums: Weights, bound: tuple[Int[Array, "E"], Int[Array, "E"]], tiling: Tiling
    ) -> tuple[Carry, Weights]:
        """The carry, and the sums with each block's share added to its expert's, after all blocks."""
        run = self._one_by_one if tiling.together == 1 else self._together
        return run(carry, sums, *bound, tiling)

    def _one_by_one(
        self, carry: Carry, sums: Weights, starts: Array, ends: Array, tiling: Tiling
    ) -> tuple[Carry, Weights]:
        """One expert after the other: its weights are read, and its sums written, once."""
        rows = min(tiling.rows, self.length)
        rest = min(tiling.rest or rows, rows)

        def expert(e: Array, state: tuple[Carry, Weights]) -> tuple[Carry, Weights]:
            carry, sums = state
            weights = tuple(lax.dynamic_index_in_dim(w, e).astype(self.dtype) for w in self.weights)
            first, end = starts[e], ends[e]
            middle = first + (end - first) // rows * rows
            own = tuple(jnp.zeros_like(s[:1]) for s in sums)
            for start, size, number in (
                (first, rows, (middle - first) // rows),
                (middle, rest, (end - middle + rest - 1) // rest),
            ):

                def block(i: Array, state: tuple, start: Array = start, size: int = size) -> tuple[Carry, Weights]:
                    carry, own = state
                    at = (start + i * size)[None]
                    carry, shares = self.body(Window(at, jnp.minimum(at + size, end), size), weights, carry)
                    return carry, tuple(s + share for s, share in zip(own, shares, strict=True))

                carry, own = lax.fori_loop(0, number, block, (carry, own))
            found = (lax.dynamic_update_index_in_dim(s, new, e, 0) for s, new in zip(sums, own, strict=True))
            return carry, tuple(found)

        return lax.fori_loop(0, starts.size, expert, (carry, sums))

    def _together(
        self, carry: Carry, sums: Weights, starts: Array, ends: Array, tiling: Tiling
    ) -> tuple[Carry, Weights]:
        """Several blocks at a time, of whichever experts."""
        rows = min(tiling.rows, self.length)
        number, together = turns(self.length, starts.size, rows, tiling.together)
        blocks = cut(starts, ends, rows, number * together)

        def some(i: Array, state: tuple[Carry, Weights]) -> tuple[Carry, Weights]:
            carry, sums = state
            own = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * together, together), blocks)
            weights = tuple(w[own.expert].astype(self.dtype) for w in self.weights)
            carry, shares = self.body(Window(own.start, own.stop, rows), weights, carry)
            added = (s.at[own.expert].add(new, indices_are_sorted=True) for s, new in zip(sums, shares, strict=True))
            return carry, tuple(added)

        return lax.fori_loop(0, number, some, (carry, sums))


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

    def body(window: Window, weights: Weights, carry: tuple[Array, Scores]) -> tuple[tuple[Array, Scores], Weights]:
        (out, saved), (*entries, down), rows = carry, weights, window.take(x)
        scores = tuple(_product(rows, w, (2, 1)) for w in entries)
        inner = hidden(activation, scores).astype(x.dtype)
        used = tuple(window.put(a, s) for a, s in zip(saved, scores, strict=False))
        return (window.put(out, _product(inner, down, (2, 1))), used + saved[len(used) :]), ()

    for experts, bound in zip(classes, bounds(counts, classes), strict=True):
        sweep = _Sweep(body, (*experts.entries, experts.down), x.dtype, x.shape[0])
        carry, _ = sweep.run(carry, (), bound, tiling)
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
        body = partial(_block_gradient, x, dy, scores, activation)
        sweep = _Sweep(body, (*experts.entries, experts.down), x.dtype, x.shape[0])
        sums = np.promote_types(x.dtype, np.float32)
        start = tuple(zeros(experts.up.shape, sums, x) for _ in (*experts.entries, experts.down))
        dx, (*entries, down) = sweep.run(dx, start, bound, tiling)
        found.append(experts.like(tuple(entries), down.swapaxes(1, 2)))
    return dx, None, tuple(found)


def _block_gradient(
    x: Float[Array, "T d"],
    dy: Float[Array, "T d"],
    saved: Scores,
    activation: str,
    window: Window,
    weights: Weights,
    dx: Float[Array, "T d"],
) -> tuple[Array, Weights]:
    """dx with the blocks' rows, and their shares of the gradients of the entries and of `down`, turned."""
    *entries, down = weights
    rows, drows = window.take(x), window.take(dy)
    sums = np.promote_types(x.dtype, np.float32)
    scores = tuple(window.take(s, down.shape[1]).astype(sums) for s in saved[: len(entries)])
    inner, pull = jax.vjp(partial(hidden, activation), scores)
    (dscores,) = pull(_product(drows, down, (2, 2)))
    dscores = tuple(d.astype(x.dtype) for d in dscores)
    parts = [_product(d, w, (2, 2)) for d, w in zip(dscores, entries, strict=True)]
    shares = (*(_product(rows, d, (1, 1)) for d in dscores), _product(drows, inner.astype(x.dtype), (1, 1)))
    return window.put(dx, sum(parts[1:], parts[0])), shares


forward.defvjp(_save, _backward)
