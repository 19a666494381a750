"""A user's memory behind attention's window: a matrix a head, written and read with attention's own queries and keys.

After Infini-attention (Munkhdalai et al. 2024, arXiv 2404.07143), whose compressive memory shares the queries, keys and
values of local attention, with the gated delta rule (Yang et al. 2024, arXiv 2412.06464) in the place of its updates.
What attention learns to find within its window, the memory then finds behind it: with projections of its own it hardly
learns to find anything.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, Shaped
from mdrec_kernels.delta_memory_scan import delta_memory_scan

from mdrec_jax.models.layers.linear import Linear
from mdrec_jax.models.layers.norm import at_least_float32, unit_rms

CHUNK = 16
"""Events that are worked on at once; what comes out does not depend on it."""
WRITE, KEEP = -2.0, 6.0
"""What the sigmoids of a write's strength, and of the share that an event leaves of the memory, start at. At 6, a third
is left after 450 events; near 0, nothing is after ten, and what lies further back is never learned."""


class UserMemory(nnx.Module):
    """S <- a S, then S <- S + b k (v - k^T S)^T, for every event in turn; a token reads 2 sigmoid(x W) * (q^T S).

    a and b, the share that is kept and the strength of the write, are the event's and the head's; q and k have length 1
    and no position. Empty where a segment starts.
    """

    def __init__(self, key: jax.Array, dim: int, heads: int) -> None:
        keys = jax.random.split(key)
        self.heads = heads
        biases = (WRITE,) * heads + (KEEP,) * heads
        self.gates = Linear(keys[0], dim, 2 * heads, ("embed", "gate"), gain=0.1, bias_value=biases)
        self.read_gate = Linear(keys[1], dim, dim, ("embed", "heads"))

    def __call__(
        self,
        x: Float[Array, "R T D"],
        q: Float[Array, "R T H K"],
        k: Float[Array, "R T H K"],
        v: Float[Array, "R T H K"],
        segment: Int32[Array, "R T"],
        segments: int,
    ) -> Float[Array, "R T H K"]:
        """What is added to what the heads see.

        Args:
            x: states, normed.
            q, k, v: attention's, of x, not turned by positions.
            segment: as in `Batch`.
            segments: the most segments that a row has.
        """
        heads = self.heads
        to, back = (jnp.repeat(place, heads, axis=0) for place in aligned(segment, segments, CHUNK))
        q, k, v, write, log_keep = (placed(_by_head(part), to) for part in self.tokens(x, q, k, v))
        where = placed(jnp.repeat(segment, heads, axis=0), to)
        read, _ = delta_memory_scan(q, k, v, where, write, log_decay=log_keep, chunk=CHUNK, scale=1.0)
        read = jnp.take_along_axis(read, back[..., None], axis=1)
        return self.gated(x, jnp.moveaxis(read.reshape(x.shape[0], heads, *read.shape[1:]), 1, 2))

    def tokens(
        self,
        x: Float[Array, "R T D"],
        q: Float[Array, "R T H K"],
        k: Float[Array, "R T H K"],
        v: Float[Array, "R T H K"],
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Queries and keys of length 1, values, the strength of the write and the logarithm of the share that is kept
        [R, T, H]."""
        unit = q.shape[-1] ** -0.5
        write, keep = jnp.split(at_least_float32(self.gates(x)), 2, axis=-1)
        return unit_rms(q) * unit, unit_rms(k) * unit, v, jax.nn.sigmoid(write), jax.nn.log_sigmoid(keep)

    def gated(self, x: Float[Array, "R T D"], read: Float[Array, "R T H K"]) -> Float[Array, "R T H K"]:
        """The read behind its gate, which starts at about one."""
        return read * (2 * jax.nn.sigmoid(self.read_gate(x))).reshape(read.shape)


def _by_head(x: Shaped[Array, "R T H *more"]) -> Shaped[Array, "RH T *more"]:
    """Each head as a row of its own."""
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], *x.shape[3:])


def aligned(segment: Int32[Array, "R T"], segments: int, chunk: int) -> tuple[Int32[Array, "R A"], Int32[Array, "R T"]]:
    """Places at which every segment starts at a multiple of `chunk`.

    Returns:
        The column that stands at each of A = T + segments * (chunk - 1) places, rounded up to chunks, T for none; and
        the place of each column. Padding has place A - 1, where nothing stands.
    """
    columns = segment.shape[1]
    places = -(-(columns + segments * (chunk - 1)) // chunk) * chunk + chunk
    number = jnp.arange(1, segments + 1, dtype=jnp.int32)
    length = jnp.sum(segment[:, :, None] == number[None, None, :], axis=1, dtype=jnp.int32)
    room = -(-length // chunk) * chunk
    moved = (jnp.cumsum(room, axis=1) - room) - (jnp.cumsum(length, axis=1) - length)
    column = jnp.arange(columns, dtype=jnp.int32)[None, :]
    real = segment > 0
    first = jnp.argmax(real, axis=1).astype(jnp.int32)[:, None]
    shift = jnp.take_along_axis(moved, jnp.maximum(segment - 1, 0), axis=1)
    back = jnp.where(real, column - first + shift, places - 1)
    rows = jnp.arange(segment.shape[0], dtype=jnp.int32)[:, None]
    to = jnp.full((segment.shape[0], places), columns, jnp.int32)
    return to.at[rows, back].set(jnp.where(real, jnp.broadcast_to(column, back.shape), columns)), back


def placed(x: Array, to: Int32[Array, "R A"]) -> Array:
    """x at its new places; zeros where nothing stands."""
    padded = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)
    return jnp.take_along_axis(padded, to.reshape(*to.shape, *(1,) * (x.ndim - 2)), axis=1)
