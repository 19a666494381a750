"""A model with its parameters, placed on the devices, ready to score: histories in, states out."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Int64

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.histories import QueryBatches
from mdrec_jax.data.batching.queries import QueryList, query_batches
from mdrec_jax.data.batching.streams import plain
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError, NonFiniteError
from mdrec_jax.evaluate.cooccurrence import Cooccurrence
from mdrec_jax.models.api import Model, encode_batch
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh, replicated, rows_for
from mdrec_jax.types import Batch, Params, Queries, Rows

AHEAD = 4
"""Batches whose states are awaited at once: the next ones are packed while these are worked out."""
CPU_TOKENS = 2400
"""Tokens of a batch on a CPU, at most: what a layer makes of them stays in the cache. Of 6,400 each takes 1.7 times as
long."""
STATE = "h"
"""The name of the state that is scored, where a code may be named."""
MOST_HISTORIES = 20_000
"""Histories that codes are read at, at most: the same ones each time."""
FEW_DOMAINS = 4
"""Up to so many domains each have programs compiled for their own number of items."""


@dataclass(frozen=True)
class Scorer:
    """Use `make_scorer`.

    Args:
        model: its functions.
        params: its parameters, the whole of them on every device of the mesh.
        batching: how histories are packed; a batch has `rows` rows, or fewer on a CPU.
        mesh: rows and queries are spread over its `data` axis.
        dtype: of activations. Scores are float32 whatever it is.
        cooccurrence: the bonus on the scores of the state `h`; None = none.
    """

    model: Model
    params: Params
    batching: BatchingConfig
    mesh: Mesh
    dtype: Any = jnp.float32
    cooccurrence: Cooccurrence | None = None

    @property
    def sees_query_time(self) -> bool:
        """Whether the model reads the time of the event that it predicts: a protocol has to say so."""
        return bool(getattr(getattr(self.model, "config", None), "query_time_visible", False))

    @property
    def rows(self) -> int:
        rows = self.batching.rows
        if self.mesh.devices.flat[0].platform == "cpu":
            rows = min(rows, max(1, CPU_TOKENS // self.batching.row_length))
        return rows_for(self.mesh, rows)


def make_scorer(
    model: Model,
    params: Params,
    batching: BatchingConfig,
    *,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    cooccurrence: Cooccurrence | None = None,
) -> Scorer:
    """Places the parameters on the mesh; without one, on the first device."""
    mesh = make_mesh(MeshConfig(data=1)) if mesh is None else mesh
    return Scorer(model, jax.device_put(params, replicated(mesh)), batching, mesh, dtype, cooccurrence)


def states(
    scorer: Scorer, source: QueryBatches, code: str = STATE
) -> Iterator[tuple[Int64[np.ndarray, "Q"], Float[np.ndarray, "Q D"]]]:
    """(indices of queries, their states in float32) of a source, batch by batch.

    Args:
        code: `h`, the state that is scored, or one of a disentangled model's `Codes`.

    Raises:
        InputError: a model without that code.
        NonFiniteError: a state is infinite or not a number.
    """
    encode = _encoder(scorer.model, scorer.mesh, scorer.dtype, code)
    waiting: list[tuple[np.ndarray, Array]] = []
    rows = by_row(scorer.mesh)
    for i in range(len(source)):
        batch, queries = source[i]
        placed = jax.device_put(queries, replicated(scorer.mesh))
        waiting.append((np.asarray(queries.query), encode(scorer.params, jax.device_put(batch, rows), placed)))
        if len(waiting) > AHEAD:
            yield _arrived(*waiting.pop(0))
    for one in waiting:
        yield _arrived(*one)


def _arrived(query: Int32[np.ndarray, "Q"], state: Float[Array, "Q D"]) -> tuple[np.ndarray, np.ndarray]:
    there = query >= 0
    arrived = np.asarray(state)[there]
    if not np.isfinite(arrived).all():
        raise NonFiniteError("the model has diverged: it gives states that are infinite or not numbers")
    return query[there].astype(np.int64), arrived


@lru_cache(maxsize=16)
def _encoder(model: Model, mesh: Mesh, dtype: Any, code: str) -> Any:
    """Compiled: (parameters, batch, queries) -> the state at each query, on every device."""

    def local(params: Params, batch: Batch, queries: Queries) -> Float[Array, "Q D"]:
        h = code_of(model, encode_batch(model, params, batch, dtype=dtype), code)
        row = queries.row - jax.lax.axis_index(DATA) * h.shape[0]
        here = (row >= 0) & (row < h.shape[0])
        state = h[jnp.where(here, row, 0), queries.column].astype(jnp.float32)
        return jax.lax.psum(jnp.where(here[:, None], state, 0), DATA)

    whole, split = jax.P(), jax.P(DATA)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(whole, split, whole), out_specs=whole, check_vma=False))


SCORED = ("shared", "specific")
"""Codes that items can be ranked by: they are made ready for inner products, as `h` is."""


def code_of(model: Model, encoded: Encoded, code: str) -> Float[Array, "R T D"]:
    """The state that is scored, or a code by its name. Raises InputError for a model that has none of that name."""
    if code == STATE:
        return encoded.h
    found = getattr(encoded.codes, code, None)
    if found is None:
        hint = "shared and specific codes: mdrec train mdrec --model.disentangle.codes"
        has = STATE if encoded.codes is None else ", ".join((STATE, *SCORED))
        raise InputError(f"the model has no code '{code}'", found=has, expected=code, hint=hint)
    return model.scored_states(found) if code in SCORED else found


def last_events(queries: QueryList) -> QueryList:
    """The different histories of some queries, each for the domain of its last event; empty ones are left out."""
    known = np.flatnonzero(queries.history_length > 0)
    keys = np.stack([queries.sequence[known], queries.history_end[known]], axis=1)
    chosen = np.sort(known[np.unique(keys, axis=0, return_index=True)[1]])
    if len(chosen) > MOST_HISTORIES:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST_HISTORIES, replace=False))
    last = queries.visible[queries.history_end[chosen] - 1]
    arrays = ("place", "sequence", "user", "target", "time", "history_begin", "history_end")
    return dataclasses.replace(
        queries,
        domain=plain(queries.dataset.domain)[last].astype(np.int32),
        **{name: getattr(queries, name)[chosen] for name in arrays},
    )


def codes_at(scorer: Scorer, dataset: Dataset, histories: QueryList, code: str) -> Float32[np.ndarray, "N D"]:
    """The code of each history, in their order."""
    source = query_batches(dataset, histories, scorer.batching, rows=scorer.rows)
    parts = list(states(scorer, source, code))
    number = np.concatenate([number for number, _ in parts])
    x = np.empty((len(histories), parts[0][1].shape[1]), np.float32)
    x[number] = np.concatenate([x for _, x in parts])
    return x


@dataclass(frozen=True)
class Universe:
    """Items that compete, on the devices: item `ids[p]` is row p of `vectors`, for p = 1 .. count.

    Row 0 stands for "none"; it and the rows behind the last item never compete. Use `place_items`.
    """

    ids: Int32[np.ndarray, "W"]
    place: Int32[np.ndarray, "V"]
    """The row of every item of the catalogue; 0 where it does not compete."""
    vectors: Float[Array, "W D"]
    count: Int32[Array, ""]

    def places(self, items: Csr) -> Csr:
        """The rows of those items of each list that compete."""
        rows = Csr(items.offsets, self.place[items.values])
        return rows.keep(rows.values > 0)


def place_items(scorer: Scorer, items: Int[np.ndarray, "U"], num_items: int, *, domains: int = 1) -> Universe:
    """Gathers the vectors of some items.

    Args:
        items: ids, ascending.
        num_items: V.
        domains: how many such universes there will be. Where they are many, lengths are rounded up, so that fewer
            programs are compiled.
    """
    length = len(items) + 1
    if domains > FEW_DOMAINS:
        power = 1 << max(3, (length - 1).bit_length())
        length = power * 3 // 4 if length <= power * 3 // 4 else power
    ids = np.zeros(length, np.int32)
    ids[1 : len(items) + 1] = items
    place = np.zeros(num_items, np.int32)
    place[items] = np.arange(1, len(items) + 1)
    count = jax.device_put(np.int32(len(items)), replicated(scorer.mesh))
    return Universe(ids, place, item_matrix(scorer, ids), count)


def competing(vectors: Float[Array, "W D"], count: Int32[Array, ""]) -> Bool[Array, "1 W"]:
    """Which rows of a universe compete."""
    row = jnp.arange(vectors.shape[0])
    return ((row > 0) & (row <= count))[None, :]


def item_matrix(scorer: Scorer, ids: Int[np.ndarray, "U"]) -> Float[Array, "U D"]:
    """The vectors of some items in float32, on every device."""
    chosen = jax.device_put(ids.astype(np.int32), replicated(scorer.mesh))
    return _vectors(scorer.model, scorer.mesh)(scorer.params, chosen)


@lru_cache(maxsize=16)
def _vectors(model: Model, mesh: Mesh) -> Any:
    def local(params: Params, ids: Int32[Array, "U"]) -> Float[Array, "U D"]:
        rows = {name: Rows(table, {"items": ids}) for name, table in params.tables.items()}
        return model.scored_items(model.item_vectors(params.dense, rows, None, "items")).astype(jnp.float32)

    whole = jax.P()
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(whole, whole), out_specs=whole, check_vma=False))
