"""Targets further ahead than the next event.

In logs whose order is loose (many events of one day, say) what follows the next event is as good an answer as the next
event itself. Each token's target is drawn among the next `horizon` events of its segment, the one k places ahead with
a share in proportion to 1 / k: the dense all-action objective of PinnerFormer (Pancha et al. 2022, arXiv 2205.04507),
but one target a token, so that a step costs what it cost before. Validation and test ask for the next event.
"""

import numpy as np
from jaxtyping import Int32, Int64

from mdrec_jax.data.batching.layout import BatchBuffer, Layout, Tokens, gather, gather_time, take_facts
from mdrec_jax.data.batching.streams import EventStream
from mdrec_jax.data.batching.windows import DomainGeometry

_PURPOSE = 0x40712
"""Keeps the draws apart from those of the epoch's order."""


def draw_distances(seed: int, batch: int, slots: int, horizon: int) -> Int32[np.ndarray, " n"]:
    """How far ahead each slot of a batch looks, 1 .. horizon: a function of (seed, batch) alone."""
    share = 1.0 / np.arange(1, horizon + 1)
    edges = np.cumsum(share / share.sum())[:-1]
    drawn = np.random.default_rng((seed, _PURPOSE, batch)).random(slots, np.float32)
    return 1 + np.searchsorted(edges, drawn, side="right").astype(np.int32)


def look_ahead(
    buffer: BatchBuffer,
    stream: EventStream,
    geometry: DomainGeometry | None,
    layout: Layout,
    tokens: Tokens,
    distance: Int32[np.ndarray, " n"],
) -> None:
    """Move each slot's target to the event `distance` places ahead, or to its segment's last one.

    A target that is none (context, padding) stays where it was, and no slot looks at one.
    """
    position = buffer["position"]
    left = layout.spread(layout.length, np.int32) - position  # events ahead of it that may be a target
    distance = np.minimum(distance, np.maximum(left, 1))
    ahead = tokens.index + distance
    distance = np.where(stream.target.take(ahead, mode="clip") == 0, 1, distance)
    moved = np.flatnonzero((distance > 1) & (buffer["weight"].view(np.float32) > 0))
    ahead = (tokens.index + distance)[moved]
    for field, column in (("target", stream.target), ("target_domain", stream.domain)):
        values = np.empty(len(moved), np.int32)
        gather(column, ahead, values)
        buffer[field][moved] = values
    times = np.empty(len(moved), np.int32)
    gather_time(stream, 0, ahead, times)
    buffer["target_time"][moved] = times
    if geometry is not None:
        previous = latest_before(geometry, ahead, distance[moved], position[moved])
        column = tokens.column[moved]
        buffer["previous_in_target_domain"][moved] = np.where(previous > position[moved], -1, column - previous)


def latest_before(
    geometry: DomainGeometry,
    event: Int64[np.ndarray, " k"],
    distance: Int32[np.ndarray, " k"],
    position: Int32[np.ndarray, " k"],
) -> Int64[np.ndarray, " k"]:
    """How far before its token the latest event of `event`'s domain stands; more than `position` where there is none.

    Args:
        event: places in the stream, `distance` behind the token's.
    """
    back = -distance.astype(np.int64)
    while True:
        ahead = np.flatnonzero(back < 0)
        if not len(ahead):
            return back
        gap = take_facts(geometry, 0, (event - distance)[ahead] - back[ahead])[:, 3].astype(np.int64)
        back[ahead] += np.where(gap == 0xFFFF, 0x1FFFF + position[ahead], gap)
