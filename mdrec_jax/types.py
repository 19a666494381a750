"""The arrays that pass between the parts, and the letters that name their dimensions.

    R  rows of a batch            T  tokens of a row            S  segments of a row
    D  model width                H  attention heads            K  width of a head
    F  feed-forward width         L  layers                     V  rows of an item table
    N  candidates or negatives    G  domains                    Q  queries of an evaluation batch
    B  behaviour (event) types    U  users                      M  slots of a memory

A batch is *packed*: a row of T tokens holds the sequences of several users one behind the other, told apart by
`segment`. Padding is the special case of a row's unused end (`segment == 0`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float32, Int32

type AnyArray = jax.Array | np.ndarray
type Scope = Literal["shared", "private"]
type Group = Literal["matrix", "vector", "embedding", "table", "statistic"]

PAD_ITEM = 0
"""Item id of a slot that holds nothing."""
UNKNOWN_ITEM = 1
"""Item id of an input that the catalogue does not have: never a target, never a negative."""
FIRST_ITEM = 2
"""The first id of a real item."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed training or evaluation sequences. Everything but `weight` and `segment_user` is int32 [R, T].

    `0` means none in `item`, `segment` and `target`; `-1` means none in `previous_in_target_domain`. A segment
    never crosses rows.
    """

    item: Int32[AnyArray, "R T"]
    """The item of the event (0 = nothing, 1 = unknown)."""
    domain: Int32[AnyArray, "R T"]
    """The domain of the event, 0 .. G-1."""
    event: Int32[AnyArray, "R T"]
    """The behaviour type of the event, 0 .. B-1."""
    time: Int32[AnyArray, "R T"]
    """Seconds since the data set's first event (0 where the data set has no times)."""
    segment: Int32[AnyArray, "R T"]
    """1, 2, ... within the row; 0 = padding."""
    position: Int32[AnyArray, "R T"]
    """0, 1, ... within the segment."""
    domain_position: Int32[AnyArray, "R T"]
    """0, 1, ... within the events of the segment that share this event's domain."""
    target: Int32[AnyArray, "R T"]
    """The next item, or 0 where there is nothing to predict."""
    target_domain: Int32[AnyArray, "R T"]
    """The domain of the next event (for an evaluation query: the domain that is asked about)."""
    target_time: Int32[AnyArray, "R T"]
    """The time of the next event. A model may read it only when its config says the query's time is visible."""
    previous_in_target_domain: Int32[AnyArray, "R T"]
    """Column of the segment's latest event, up to this one, in the target's domain; -1 where there is none."""
    weight: Float32[AnyArray, "R T"]
    """The target's weight in the loss; 0 where there is no target."""
    segment_user: Int32[AnyArray, "R S"]
    """The user of segment s+1 of the row; -1 where there is no such segment."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Queries:
    """What an evaluation batch asks: the state at (row, column) is to rank `target` among the items of `domain`."""

    row: Int32[AnyArray, "Q"]
    column: Int32[AnyArray, "Q"]
    user: Int32[AnyArray, "Q"]
    """The user; -1 marks a slot of the batch that holds no query."""
    domain: Int32[AnyArray, "Q"]
    target: Int32[AnyArray, "Q"]
    """The item to be found; 0 when recommending."""
    previous: Int32[AnyArray, "Q"]
    """Column of the segment's latest event in `domain`; -1 where there is none."""
    query: Int32[AnyArray, "Q"]
    """Index into the evaluation split's list of queries; -1 in an empty slot."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Params:
    """What a model holds."""

    dense: Any
    """Nested dicts of the parameters that are not looked up by row."""
    tables: dict[str, jax.Array]
    """Parameters that are looked up by row."""
    statistics: Any
    """Nested dicts of what has no gradient and is worked out in closed form from states of the model. A checkpoint
    holds them; no optimiser, clipping, gradient norm, noise or federation sees them."""


@dataclass(frozen=True)
class ParameterFacts:
    """What is known about one array of a model, stated once, where it is made.

    Args:
        logical_axes: a name for each dimension, no name twice: `layers` (stacked blocks), `embed` (D), `embed_out` (D
            of a square map's output), `heads` (H*K), `mlp` (F), `code`, `code_out`, `domain_rank`, `pass_rank`,
            `expert`, `slot`, `pass`, `gate`, `position`, `domain`, `event`, `date`, `gap`, `bucket`, `table` (V). The
            sharding rules map them to axes of the mesh.
        scope: whether the parameter leaves an organisation in federated training ("shared") or stays ("private").
        group: `matrix` and `embedding` (rows that are looked up or attended to: a matrix times a one-hot) may be
            decayed, `vector` (norms, biases, scales) never, whatever its number of dimensions is; `table` (looked up
            by row) has rules of its own; a `statistic` is no parameter.
        shape: of the array.
    """

    logical_axes: tuple[str, ...]
    scope: Scope
    group: Group
    shape: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What one table's lookup returned: rows, and for each name that was asked for, where its rows stand.

    In `rows` mode `values` holds each touched row once; in `full` mode it is the whole table and `index` holds the
    ids themselves. Model code is the same in both: `rows.values[rows.index["input"]]`.
    """

    values: Float32[jax.Array, "N D"]
    index: dict[str, jax.Array]

    def take(self, name: str) -> jax.Array:
        """The rows asked for under `name`: the shape of its ids with a last axis D."""
        return self.values[self.index[name]]


@dataclass(frozen=True)
class DatasetSpec:
    """The static facts of a data set that shape a model.

    Args:
        num_items: ids run from 0 to num_items - 1; 0 is padding, 1 is unknown.
        num_domains: at least 1.
        num_events: behaviour types, at least 1.
        has_time: whether `Batch.time` means anything.
        ordered: whether the source knew an order of events; sequence models refuse data without one.
        week_second: seconds between Monday 00:00 UTC and `Batch.time` 0, within a week; None where there are no times,
            or nothing but dates (every event at the same second of its day).
        last_time: of the latest training event, in the seconds of `Batch.time`; 0 where there are no times.
    """

    num_items: int
    num_domains: int
    num_events: int
    has_time: bool
    ordered: bool = True
    week_second: int | None = None
    last_time: int = 0


def table_length(num_items: int) -> int:
    """The physical number of rows of an item table: a multiple of 384 above 4,096 rows, of 24 below.

    Both divide evenly over 1, 2, 3, 4, 6 and 8 devices. Rows past `num_items` never win a top-k, never enter a sum
    and never get a gradient.
    """
    multiple = 384 if num_items > 4096 else 24
    return -(-num_items // multiple) * multiple
