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
from mdrec_kernels.slot_memory_scan import slot_memory_scan

from mdrec_jax.models.layers import Linear, at_least_float32, unit_rms
from mdrec_jax.models.memory import WrittenConfig, aligned, placed


class DeltaMemory(nnx.Module):
    """S <- a S, then S <- S + b k (v - k^T S)^T, for every event in turn; a token reads 2 sigmoid(x W) * (q^T S).

    a and b, the share that is kept and the strength of the write, are the event's and the head's; q and k have length 1
    and no position. Empty where a segment starts.
    """

    def __init__(self, key: jax.Array, dim: int, heads: int, config: WrittenConfig) -> None:
        keys = jax.random.split(key)
        self.config, self.heads = config, heads
        biases = (config.write_bias,) * heads + (config.keep_bias,) * heads
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
        heads, chunk = self.heads, self.config.chunk
        to, back = (jnp.repeat(place, heads, axis=0) for place in aligned(segment, segments, chunk))
        q, k, v, write, log_keep = (placed(_by_head(part), to) for part in self.tokens(x, q, k, v))
        where = placed(jnp.repeat(segment, heads, axis=0), to)
        read, _ = slot_memory_scan(q, k, v, where, write, log_decay=log_keep, mode="delta", chunk=chunk, scale=1.0)
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
