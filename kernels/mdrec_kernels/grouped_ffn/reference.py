"""The formula of `grouped_ffn`, written for reading: every expert sees every row, and a mask picks its own."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from mdrec_kernels.grouped_ffn.experts import Experts, bounds, hidden


def forward(
    x: Float[Array, "T d"], counts: Int[Array, "E"], classes: tuple[Experts, ...], activation: str
) -> Float[Array, "T d"]:
    """y_t = act(x_t up_e) down_e, e being the expert of row t; 0 for rows after the last expert's."""
    wide = np.promote_types(x.dtype, jnp.float32)
    row, out = jnp.arange(x.shape[0], dtype=jnp.int32)[None], jnp.zeros(x.shape, wide)
    for experts, (starts, ends) in zip(classes, bounds(counts, classes), strict=True):
        scores = tuple(jnp.einsum("td,edf->etf", x.astype(wide), w.astype(wide)) for w in experts.entries)
        every = jnp.einsum("etf,efd->etd", hidden(activation, scores), experts.down.astype(wide))
        own = (row >= starts[:, None]) & (row < ends[:, None])
        out = out + jnp.sum(jnp.where(own[:, :, None], every, 0), axis=0)
    return out.astype(x.dtype)
