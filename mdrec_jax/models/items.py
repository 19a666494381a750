"""Items and events as vectors: what a history reads, and what states are scored against."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32

from mdrec_jax.errors import InputError
from mdrec_jax.models.layers.linear import initial_rows
from mdrec_jax.models.layers.norm import unit_length
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import FIRST_ITEM, Batch, DatasetSpec, ParameterFacts, table_length

ITEM_TABLE = "item"
INPUT = "input"

DAY = 24 * 3600


class Dates(nnx.Module):
    """time [R, T] in seconds since the data set's first event -> [R, T, D]: an embedding of an event's date.

    Catalogues move: an item is bought for a while and then no more. The embedding is piecewise linear between learned
    knots at equal distances from the data set's first event on; a date behind the last training event is read as that
    event's, so nothing is asked of a knot that was never trained.

    Args:
        days: between two knots.
        scale: standard deviation of the initial knots.
    """

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, *, days: float, scale: float) -> None:
        self.seconds, self.last = days * DAY, max(spec.last_time, 0)
        length = int(self.last // self.seconds) + 2
        knots = initial_rows(key, length, dim, scale=scale)
        # What is in fashion when is a data set's own.
        self.knots = parameter(knots, "date", "embed", group="embedding", scope="private")

    def __call__(self, time: Int32[Array, "R T"], dtype: jnp.dtype) -> Float[Array, "R T D"]:
        place = jnp.clip(time, 0, self.last).astype(jnp.float32) / self.seconds
        left = jnp.floor(place)
        share, left = (place - left).astype(dtype)[..., None], left.astype(jnp.int32)
        knots = self.knots.get_value().astype(dtype)
        return knots[left] * (1 - share) + knots[left + 1] * share


def check_dates(days: float, spec: DatasetSpec) -> None:
    """
    Raises:
        InputError: dates are wanted and the data have no times.
    """
    if days and not spec.has_time:
        raise InputError(
            "an embedding of dates needs times, and this data set has none",
            column="model.date_days",
            found=days,
            expected="0, or a data set with times",
        )


class Inputs(nnx.Module):
    """item vector * scale + position + domain + behaviour type + date.

    Args:
        positions, domains, events: how many rows each learned embedding has; 0 leaves it out.
        date_days: days between the knots of the embedding of dates; 0 leaves it out.
        item_scale: what an item vector is multiplied by when it is read as an input.
        init_scale: standard deviation of the initial item vectors; the learned embeddings start as large as those are
            when they are read.
    """

    def __init__(
        self,
        key: jax.Array,
        dim: int,
        spec: DatasetSpec,
        *,
        positions: int,
        domains: int,
        events: int,
        date_days: float = 0.0,
        item_scale: float,
        init_scale: float,
    ) -> None:
        keys, scale = jax.random.split(key, 3), init_scale * item_scale
        self.item_scale = item_scale
        self.position = _embedding(keys[0], positions, dim, "position", scale)
        self.domain = _embedding(keys[1], domains, dim, "domain", scale)
        self.event = _embedding(keys[2], events, dim, "event", scale)
        dates_key = jax.random.fold_in(key, 3)
        self.dates = Dates(dates_key, dim, spec, days=date_days, scale=scale) if date_days else None

    def __call__(self, item: Float[Array, "R T D"], batch: Batch) -> Float[Array, "R T D"]:
        x = item * jnp.asarray(self.item_scale, item.dtype)
        for table, ids in ((self.position, batch.position), (self.domain, batch.domain), (self.event, batch.event)):
            if table is not None:
                # Positions past the last row share it.
                x = x + table.get_value().astype(x.dtype).at[jnp.asarray(ids)].get(mode="clip")
        return x if self.dates is None else x + self.dates(jnp.asarray(batch.time), x.dtype)


def _embedding(key: jax.Array, length: int, dim: int, axis: str, scale: float) -> nnx.Param | None:
    if length == 0:
        return None
    # A silo's domains and behaviour types are its own; positions mean the same everywhere.
    scope = "shared" if axis == "position" else "private"
    return parameter(initial_rows(key, length, dim, scale=scale), axis, "embed", group="embedding", scope=scope)


def item_facts(spec: DatasetSpec, dim: int) -> ParameterFacts:
    """Facts of the item table: its rows belong to the domains' owners and stay with them."""
    return ParameterFacts(("table", "embed"), "private", "table", (table_length(spec.num_items), dim))


def scored_items(vectors: Float[Array, "... D"], temperature: float) -> Float[Array, "... D"]:
    """Item vectors as states are scored against them: of length 1 for cosines, as they are for a temperature of 0."""
    return unit_length(vectors) if temperature else vectors


def scored_states(h: Float[Array, "... D"], temperature: float) -> Float[Array, "... D"]:
    """States whose inner products with `scored_items` are the logits: h, or cosines over the temperature."""
    return unit_length(h) * jnp.asarray(1.0 / temperature, h.dtype) if temperature else h


def initial_item_table(key: jax.Array, num_items: int, dim: int, *, scale: float) -> Float32[Array, "V D"]:
    """The item table at its physical length, normal with standard deviation `scale`.

    The rows that no target and no negative ever names (padding, unknown, and those past `num_items`) are zero: an
    unknown input is then "an event happened" and nothing else.
    """
    length = table_length(num_items)
    ids = jnp.arange(length)[:, None]
    real = (ids >= FIRST_ITEM) & (ids < num_items)
    return jnp.where(real, initial_rows(key, length, dim, scale=scale), 0.0)
