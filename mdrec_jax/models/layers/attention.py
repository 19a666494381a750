"""Causal multi-head self-attention over packed rows, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32
from mdrec_kernels.packed_attention import packed_attention

from mdrec_jax.models.layers.linear import Linear

type Heads = tuple[Float[Array, "R T H K"], Float[Array, "R T H K"], Float[Array, "R T H K"]]
type Rotation = tuple[Float[Array, "R T 1 K/2"], Float[Array, "R T 1 K/2"]]


def rotary_angles(position: Int32[Array, "R T"], width: int, *, base: float = 10_000.0) -> Rotation:
    """cos and sin of position * base^(-2i/K): RoFormer (Su et al. 2021, arXiv 2104.09864) eq. 15.

    Args:
        position: below the row's length T.
        width: of a head, K; even.
    """
    # T cosines a frequency are enough for all R * T tokens. They are worked out here, in float64: a float32 angle is
    # off by 1e-3 at position 10,000, and what counts is the difference of two.
    angle = np.arange(position.shape[1])[:, None] * base ** (-np.arange(0, width, 2) / width)
    cos, sin = (jnp.asarray(table.astype(np.float32)) for table in (np.cos(angle), np.sin(angle)))
    return cos[position][:, :, None], sin[position][:, :, None]


def rotate(x: Float[Array, "R T H K"], rotation: Rotation) -> Float[Array, "R T H K"]:
    """Turn each pair (x[i], x[i + K/2]) by its token's angle; inner products then depend on position differences."""
    cos, sin = (part.astype(x.dtype) for part in rotation)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Attention(nnx.Module):
    """softmax(Q K^T / sqrt(K)) V within a segment and not ahead, then an output projection (Vaswani et al. 2017).

    Args:
        window: how many events back a token sees, itself counted.
        rate: share of the attention weights that are dropped in training.
    """

    def __init__(self, key: jax.Array, dim: int, heads: int, *, window: int, rate: float, output_gain: float) -> None:
        qkv_key, out_key = jax.random.split(key)
        self.heads, self.window, self.rate = heads, window, rate
        self.qkv = Linear(qkv_key, dim, 3 * dim, ("embed", "heads"))
        self.out = Linear(out_key, dim, dim, ("heads", "embed"), gain=output_gain)

    def mixed(
        self,
        q: Float[Array, "R T H K"],
        k: Float[Array, "R T H K"],
        v: Float[Array, "R T H K"],
        segment: Int32[Array, "R T"],
        rotation: Rotation | None,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T H K"]:
        """What the heads see, before the output projection.

        Args:
            segment: as in `Batch`.
            rotation: of the tokens' positions, or None without rotary positions.
        """
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return packed_attention(q, k, v, segment, window=self.window, dropout_rate=self.rate, dropout_keys=seeds)

    def heads_of(self, x: Float[Array, "R T D"]) -> Heads:
        """Queries, keys and values, not turned by positions."""
        rows, columns, dim = x.shape
        parts = jnp.split(self.qkv(x), 3, axis=-1)
        q, k, v = (part.reshape(rows, columns, self.heads, dim // self.heads) for part in parts)
        return q, k, v
