"""From events to input vectors, and from item rows to the vectors that states are scored against."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mdrec_jax.models import init
from mdrec_jax.models.dates import Dates
from mdrec_jax.models.layers import at_least_float32
from mdrec_jax.models.pure import parameter
from mdrec_jax.types import Batch, DatasetSpec, ParameterFacts, Rows, table_length

ITEM_TABLE = "item"
INPUT = "input"

ScoreKind = Literal["dot", "cosine"]


class Inputs(nnx.Module):
    """item vector * scale + position + domain + behaviour type + date.

    Args:
        positions, domains, events: how many rows each learned embedding has; 0 leaves it out.
        dates: the embedding of dates, if there is one.
        item_scale: what an item vector is multiplied by when it is read as an input.
        scale: standard deviation of the learned embeddings' initial values.
    """

    def __init__(
        self,
        key: jax.Array,
        dim: int,
        *,
        positions: int,
        domains: int,
        events: int,
        item_scale: float,
        scale: float,
        dates: Dates | None = None,
    ) -> None:
        keys = jax.random.split(key, 3)
        self.item_scale = item_scale
        self.position = _embedding(keys[0], positions, dim, "position", scale)
        self.domain = _embedding(keys[1], domains, dim, "domain", scale)
        self.event = _embedding(keys[2], events, dim, "event", scale)
        self.dates = dates

    def __call__(self, item: Float[Array, "R T D"], batch: Batch) -> Float[Array, "R T D"]:
        x = item * jnp.asarray(self.item_scale, item.dtype)
        for table, ids in ((self.position, batch.position), (self.domain, batch.domain), (self.event, batch.event)):
            if table is not None:
                # Positions past the model's max_length share its last row.
                x = x + table.get_value().astype(x.dtype).at[jnp.asarray(ids)].get(mode="clip")
        return x if self.dates is None else x + self.dates(jnp.asarray(batch.time), x.dtype)


def _embedding(key: jax.Array, length: int, dim: int, axis: str, scale: float) -> nnx.Param | None:
    if length == 0:
        return None
    # A silo's domains and behaviour types are its own; positions mean the same everywhere.
    scope = "shared" if axis == "position" else "private"
    return parameter(init.embedding(key, length, dim, scale=scale), axis, "embed", group="embedding", scope=scope)


def item_facts(spec: DatasetSpec, dim: int) -> ParameterFacts:
    """Facts of the item table: its rows belong to the domains' owners and stay with them."""
    return ParameterFacts(("table", "embed"), "private", "table", (table_length(spec.num_items), dim))


def scored_vectors(rows: Rows, name: str | None, scores: ScoreKind) -> Float[Array, "... D"]:
    """The vectors of the items asked for under `name`, or of all rows when None; of length 1 for `cosine`."""
    values = rows.values if name is None else rows.take(name)
    return unit_length(values) if scores == "cosine" else values


def scored_states(h: Float[Array, "R T D"], scores: ScoreKind, temperature: float) -> Float[Array, "R T D"]:
    """States whose inner products with `scored_vectors` are the logits: h, or cosines over the temperature."""
    return unit_length(h) * jnp.asarray(1.0 / temperature, h.dtype) if scores == "cosine" else h


def unit_length(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x over its Euclidean length, worked out in float32 or wider; a zero vector stays zero."""
    wide = at_least_float32(x)
    return (wide * jax.lax.rsqrt((wide * wide).sum(-1, keepdims=True) + 1e-8)).astype(x.dtype)
