"""Which items a tile's tokens may choose, inside a kernel: items down, tokens across."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int
from mdrec_kernels import tpu
from mdrec_kernels.linear_xent.blocks import Blocks


@dataclass(frozen=True)
class Masks:
    """Arrays outside of a kernel, references to a tile's blocks inside; None where every item may be chosen.

    Args:
        allowed: [1 or 8 n, V up to whole tiles] 1 where a group may choose the item, else 0.
        groups: [8 n, M] 1 for the token's own group, else 0; None where there is one group.
    """

    allowed: Any | None
    groups: Any | None

    @property
    def number(self) -> int:
        return (self.allowed is not None) + (self.groups is not None)

    def blocks(self, items: Callable, tokens: Callable) -> list[tuple]:
        """Array, shape of a block, and index map of each."""
        found = []
        for value, index in ((self.allowed, items), (self.groups, tokens)):
            if value is not None:
                array, columns = value
                found.append((array, (array.shape[0], columns), index))
        return found


def make_masks(allowed: Bool[Array, "G V"] | None, group: Int[Array, " M"] | None, tokens: int, tile: Blocks) -> Masks:
    """The masks as arrays, each with the columns of its block."""
    if allowed is None:
        return Masks(None, None)
    columns = tpu.pad(allowed.astype(jnp.bfloat16), 1, tile.items)
    if allowed.shape[0] == 1:
        return Masks((columns.astype(jnp.float32), tile.items), None)
    own = jnp.zeros(tokens, jnp.int32) if group is None else group
    groups = own[None, :] == jnp.arange(allowed.shape[0], dtype=own.dtype)[:, None]
    padded = tpu.pad(columns, 0, 16), tpu.pad(groups.astype(jnp.bfloat16), 0, 16)
    return Masks((padded[0], tile.items), (padded[1], tile.tokens))


def allowed_tile(masks: Masks, tokens: int) -> Bool[Array, "v n"] | None:
    """Which items each token may choose: the product of the items' groups and the token's own."""
    if masks.allowed is None:
        return None
    if masks.groups is None:
        row = masks.allowed[...]
        return jnp.broadcast_to(row, (min(tokens, tpu.LANES), row.shape[1])).T[:, :1] > 0
    over = (((0,), (0,)), ((), ()))
    return lax.dot_general(masks.allowed[...], masks.groups[...], over, preferred_element_type=jnp.float32) > 0.5
