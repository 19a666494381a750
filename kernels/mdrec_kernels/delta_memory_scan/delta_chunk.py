"""The scan within one chunk, whose state at the start is S: all of it as products of matrices.

After Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length", section 3, and
"Gated delta networks", section 3. With g_t the sum of log_decay up to token t of the chunk, its tokens add rows

    U = X (write value - (write e^g k) S),  X = (I + L)^-1,  L_ts = write_t e^(g_t - g_s) k_t k_s for s < t

to the memory: out_t = e^g_t q_t S + sum_(s <= t) e^(g_t - g_s) (q_t k_s) U_s, with the scale in q, and after the chunk
the state is e^g_C S + sum_s e^(g_C - g_s) k_s U_s.

Arrays may have any leading axes: (rows, chunks) in plain XLA, none in the kernel for TPUs. All are float32 or float64.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALL = 8
"""Diagonal blocks of fewer than twice as many rows are not cut further."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """A chunk's inputs. At padding, write and fade are 0."""

    q: Float[Array, "... C K"]
    k: Float[Array, "... C K"]
    value: Float[Array, "... C V"]
    write: Float[Array, "... C 1"]
    fade: Float[Array, "... C 1"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chunk:
    """What a chunk does, before its state is known."""

    so_far: Float[Array, "... C 1"]
    """e^g_t: what is left at a token of the state at the start."""
    to_end: Float[Array, "... C 1"]
    """e^(g_C - g_t): what is left at the end of a token's row."""
    whole: Float[Array, "... 1 1"]
    between: Float[Array, "... C C"]
    """e^(g_t - g_s) for s <= t, else 0."""
    links: Float[Array, "... C C"]
    """L."""
    solve: Float[Array, "... C C"]
    """X."""
    reads: Float[Array, "... C C"]
    """e^(g_t - g_s) (q_t k_s) for s <= t, else 0."""
    from_state: Float[Array, "... C K"]
    """X (write e^g k)."""
    from_value: Float[Array, "... C V"]
    """X (write value)."""


def nn(a: Float[Array, "... n m"], b: Float[Array, "... m p"]) -> Float[Array, "... n p"]:
    """a b"""
    return _dot(a, b, a.ndim - 1, b.ndim - 2)


def tn(a: Float[Array, "... m n"], b: Float[Array, "... m p"]) -> Float[Array, "... n p"]:
    """a^T b"""
    return _dot(a, b, a.ndim - 2, b.ndim - 2)


def nt(a: Float[Array, "... n m"], b: Float[Array, "... p m"]) -> Float[Array, "... n p"]:
    """a b^T"""
    return _dot(a, b, a.ndim - 1, b.ndim - 1)


def _dot(a: Array, b: Array, i: int, j: int) -> Array:
    """At full precision: the inverse multiplies rounding errors."""
    axes = tuple(range(a.ndim - 2))
    return jax.lax.dot_general(a, b, (((i,), (j,)), (axes, axes)), precision=jax.lax.Precision.HIGHEST)


def _square(n: int) -> tuple[Array, Array]:
    """Row and column of each entry."""
    return jax.lax.broadcasted_iota(jnp.int32, (n, n), 0), jax.lax.broadcasted_iota(jnp.int32, (n, n), 1)


def prepare(tokens: Tokens) -> Chunk:
    """All that needs no state."""
    row, column = _square(tokens.k.shape[-2])
    # Sums over a triangle instead of running ones, which the TPU's compiler does not have; as a row and as a column.
    up_to = _only(row >= column, _turned(tokens.fade)).sum(-1, keepdims=True)
    total = up_to[..., -1:, :]
    between = _only(row >= column, jnp.exp(jnp.minimum(up_to - _turned(up_to), 0)))
    so_far = jnp.exp(up_to)
    links = _only(row > column, tokens.write * between * nt(tokens.k, tokens.k))
    solve = inverse(links)
    return Chunk(
        so_far=so_far,
        to_end=jnp.exp(total - up_to),
        whole=jnp.exp(total),
        between=between,
        links=links,
        solve=solve,
        reads=between * nt(tokens.q, tokens.k),
        from_state=nn(solve, tokens.write * so_far * tokens.k),
        from_value=nn(solve, tokens.write * tokens.value),
    )


def _turned(x: Float[Array, "... C 1"]) -> Float[Array, "... 1 C"]:
    """A column as a row, entry by entry: a sum over the diagonal."""
    row, column = _square(x.shape[-2])
    return _only(row == column, x).sum(-2, keepdims=True)


def _only(where: Array, x: Array) -> Array:
    """x broadcast to a square, 0 elsewhere."""
    shape = (*x.shape[:-2], *where.shape)
    return jnp.where(jnp.broadcast_to(where, shape), jnp.broadcast_to(x, shape), 0)


def inverse(links: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """(I + L)^-1 of a strictly lower L, from the inverses of its diagonal blocks.

    [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]: as stable as substitution, where a series in L is not.
    """
    half, odd = divmod(links.shape[-1], 2)
    if odd or half < SMALL or links.ndim == 2:  # in a kernel for TPUs, one large product is as cheap as a small one
        return _inverse_by_doubling(links)
    diagonal = jnp.stack([links[..., :half, :half], links[..., half:, half:]])
    upper, lower = inverse(diagonal)
    left = -nn(nn(lower, links[..., half:, :half]), upper)
    above = jnp.concatenate([upper, jnp.zeros_like(left)], axis=-1)
    return jnp.concatenate([above, jnp.concatenate([left, lower], axis=-1)], axis=-2)


def _inverse_by_doubling(links: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """The same from blocks of 1, 2, 4 ... rows, without cutting anything."""
    n = links.shape[-1]
    row, column = _square(n)
    inverse = _only(row == column, jnp.ones_like(links))
    for level in range((n - 1).bit_length()):
        # The lower left quarter of each diagonal block of 2^(level + 1) rows.
        quarter = (row >> (level + 1) == column >> (level + 1)) & (row >> level > column >> level)
        joint = _only(quarter, links)
        inverse -= joint if level == 0 else nn(nn(inverse, joint), inverse)
    return inverse


def added(chunk: Chunk, state: Float[Array, "... K V"]) -> Float[Array, "... C V"]:
    """U: the rows that the tokens add."""
    return chunk.from_value - nn(chunk.from_state, state)


def after(tokens: Tokens, chunk: Chunk, state: Float[Array, "... K V"], rows: Float[Array, "... C V"]) -> Array:
    """The state after the chunk."""
    return chunk.whole * state + tn(chunk.to_end * tokens.k, rows)


def output(tokens: Tokens, chunk: Chunk, state: Float[Array, "... K V"], rows: Float[Array, "... C V"]) -> Array:
    """What the tokens read; at padding too."""
    return chunk.so_far * nn(tokens.q, state) + nn(chunk.reads, rows)


def d_added(chunk: Chunk, d_out: Float[Array, "... C V"]) -> Float[Array, "... C V"]:
    """The gradient of U, as far as it comes from the outputs."""
    return tn(chunk.reads, d_out)


def d_added_from_after(tokens: Tokens, chunk: Chunk, d_after: Float[Array, "... K V"]) -> Float[Array, "... C V"]:
    """The gradient of U, as far as it comes from the state after the chunk."""
    return nn(chunk.to_end * tokens.k, d_after)


def d_state(tokens: Tokens, chunk: Chunk, d_out: Array, by_out: Array) -> Float[Array, "... K V"]:
    """The gradient of the state at the start, as far as it comes from the outputs; `by_out` is `d_added`."""
    return tn(chunk.so_far * tokens.q, d_out) - tn(chunk.from_state, by_out)


def d_state_from_after(tokens: Tokens, chunk: Chunk, d_after: Float[Array, "... K V"]) -> Float[Array, "... K V"]:
    """The gradient of the state at the start, as far as it comes from the state after the chunk."""
    return chunk.whole * d_after - tn(chunk.from_state, d_added_from_after(tokens, chunk, d_after))


def gradients(
    tokens: Tokens,
    chunk: Chunk,
    state: Float[Array, "... K V"],
    rows: Float[Array, "... C V"],
    d_out: Float[Array, "... C V"],
    d_after: Float[Array, "... K V"],
    d_rows: Float[Array, "... C V"],
) -> Tokens:
    """Of the tokens, from the gradients of outputs, of U and of the state after the chunk."""
    row, column = _square(tokens.k.shape[-2])
    d_right = tn(chunk.solve, d_rows)  # of U's right-hand side
    d_links = -_only(row > column, nt(d_right, rows))
    d_reads = _only(row >= column, nt(d_out, rows))
    by_state, by_read = nn(tokens.k, state), nn(tokens.q, state)
    right = tokens.value - chunk.so_far * by_state
    d_scores, d_pairs = chunk.between * d_reads, tokens.write * chunk.between * d_links

    d_q = chunk.so_far * nt(d_out, state) + nn(d_scores, tokens.k)
    d_k = tn(d_scores, tokens.q) + nn(d_pairs, tokens.k) + tn(d_pairs, tokens.k)
    carried = nt(rows, d_after)
    d_k += chunk.to_end * carried - tokens.write * chunk.so_far * nt(d_right, state)
    links_over_write = _only(row > column, chunk.between * nt(tokens.k, tokens.k))
    d_write = _rows(d_right * right) + _rows(d_links * links_over_write)

    # g_t raises row t of `links` and `reads` and lowers their column t, and scales what comes from the state.
    both = d_links * chunk.links + d_reads * chunk.reads
    at_end = chunk.to_end * _rows(tokens.k * carried)
    d_sum = _rows(both) - _stood(both.sum(-2, keepdims=True)) - at_end
    d_sum += chunk.so_far * (_rows(d_out * by_read) - tokens.write * _rows(d_right * by_state))
    d_total = at_end.sum(-2, keepdims=True) + chunk.whole * _rows(state * d_after).sum(-2, keepdims=True)
    d_fade = _stood(_only(row >= column, d_sum).sum(-2, keepdims=True)) + d_total
    return Tokens(d_q, d_k, tokens.write * d_right, d_write, d_fade)


def _rows(x: Float[Array, "... C m"]) -> Float[Array, "... C 1"]:
    return x.sum(-1, keepdims=True)


def _stood(x: Float[Array, "... 1 C"]) -> Float[Array, "... C 1"]:
    """A row as a column."""
    row, column = _square(x.shape[-1])
    return _only(row == column, x).sum(-1, keepdims=True)
