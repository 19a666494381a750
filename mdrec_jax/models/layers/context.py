"""What is known about an event besides its item: domain, behaviour type, the time since the event before, the clock.

Each is a small whole number, so that routers and mixers read it from learned rows and reports can be laid out by it.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from mdrec_jax.models.layers.linear import initial_rows
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.types import Batch, DatasetSpec

HOUR, DAY = 3600, 24 * 3600
WEEK = 7 * DAY
GAP_EDGES = (1, 60, 600, HOUR, 6 * HOUR, DAY, 3 * DAY, WEEK, 30 * DAY, 180 * DAY)
"""Seconds at which a longer gap begins."""
GAP_NAMES = (
    "none before", "0 s", "< 1 min", "< 10 min", "< 1 h", "< 6 h", "< 1 day", "< 3 days", "< 1 week", "< 30 days",
    "< 180 days", ">= 180 days",
)  # fmt: skip

OF_A_SILO = ("domain", "event")
"""Facts whose numbers mean something in one data set only."""

type Context = dict[str, Int32[Array, "R T"]]
"""Numbers by name, those of `context_sizes`."""


def context_sizes(spec: DatasetSpec) -> dict[str, int]:
    """What a data set knows of an event, and how many values each can have.

    `gap` is there where the data set has times, `hour` and `weekday` (of UTC, Monday first) where they tell the time of
    day.
    """
    sizes = {"domain": spec.num_domains, "event": spec.num_events}
    if spec.has_time:
        sizes |= {"gap": len(GAP_NAMES)}
    if spec.week_second is not None:
        sizes |= {"hour": 24, "weekday": 7}
    return sizes


def context_of(batch: Batch, spec: DatasetSpec) -> Context:
    """The context of every event of a batch, or of a view of one: the gap is that to the event before in the view."""
    context = {"domain": jnp.asarray(batch.domain), "event": jnp.asarray(batch.event)}
    time = jnp.asarray(batch.time)
    if spec.has_time:
        context["gap"] = gap_bucket(jnp.asarray(batch.segment), time)
    if spec.week_second is not None:
        # Wrapped before the sum, which would otherwise leave int32 behind 68 years.
        second = (time % WEEK + spec.week_second) % WEEK
        context |= {"hour": second % DAY // HOUR, "weekday": second // DAY}
    return context


def gap_bucket(segment: Int32[Array, "R T"], time: Int32[Array, "R T"]) -> Int32[Array, "R T"]:
    """Which of GAP_NAMES the time since the segment's previous event is."""
    return bucket(jnp.diff(time, axis=1, prepend=time[:, :1]), begins(segment))


def bucket(gap: Int32[Array, "R T"], first: Bool[Array, "R T"]) -> Int32[Array, "R T"]:
    """Which of GAP_NAMES so many seconds since the event before are; 0 where there is none before."""
    longer = gap[..., None] >= jnp.asarray(GAP_EDGES, jnp.int32)[None, None, :]
    return jnp.where(first, 0, 1 + longer.sum(-1, dtype=jnp.int32))


def begins(segment: Int32[Array, "R T"]) -> Bool[Array, "R T"]:
    """Whether a token is its segment's first."""
    return segment != jnp.pad(segment[:, :-1], ((0, 0), (1, 0)), constant_values=-1)


class ContextRows(nnx.Module):
    """The sum of one learned row a fact.

    Args:
        width: of the rows.
        axis: the logical name of the rows' axis.
    """

    def __init__(self, key: jax.Array, spec: DatasetSpec, width: int, axis: str) -> None:
        sizes = context_sizes(spec)
        keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))

        def rows(name: str) -> nnx.Param:
            scope = "private" if name in OF_A_SILO else "shared"
            first = initial_rows(keys[name], sizes[name], width, scale=0.02)
            return parameter(first, name, axis, group="embedding", scope=scope)

        self.rows = nnx.Dict({name: rows(name) for name in sizes})

    def __call__(self, context: Context) -> Float[Array, "R T width"]:
        return jnp.stack([rows.get_value()[context[name]] for name, rows in self.rows.items()]).sum(0)
