"""The pure surface of every model that is an encoder over one item table, which is read and scored against alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.models import items
from mdrec_jax.models.disentangle import TrainingCodes
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.layers.checks import check_ordered
from mdrec_jax.models.layers.dropout import row_seeds
from mdrec_jax.models.nnx_bridge import abstract_module, array_facts, arrays_of, init_arrays, with_arrays
from mdrec_jax.types import Batch, DatasetSpec, Params, Rows


class TiedConfig(Protocol):
    """What the table needs to know of a model's configuration."""

    @property
    def dim(self) -> int: ...
    @property
    def init_scale(self) -> float: ...
    @property
    def temperature(self) -> float: ...


@dataclass(frozen=True)
class TiedModel:
    """An encoder and its item table; the functions are described at `models.api.Model`.

    Args:
        config: of the encoder.
        spec: of the data set. Raises InputError for one without an order of events.
        encoder: (key, config, spec) -> module; the module maps (item vectors [R, T, D], batch, seeds of the rows'
            dropout or None) to `Encoded`. It may have a method `recalibrate(states)`.
    """

    config: TiedConfig
    spec: DatasetSpec
    encoder: Callable[[jax.Array, Any, DatasetSpec], nnx.Module]

    def __post_init__(self) -> None:
        check_ordered(self.spec)

    def _build(self, key: jax.Array) -> nnx.Module:
        return self.encoder(key, self.config, self.spec)

    @cached_property
    def _abstract(self) -> nnx.Module:
        return abstract_module(self._build)

    def module(self, dense: dict[str, Any], statistics: dict[str, Any]) -> Any:
        """The encoder's module with parameters and statistics in it."""
        return with_arrays(self._abstract, dense, statistics)

    @property
    def facts(self) -> Params:
        tables: dict[str, Any] = {items.ITEM_TABLE: items.item_facts(self.spec, self.config.dim)}
        dense, statistics = array_facts(self._abstract)
        return Params(dense, tables, statistics)

    def init(self, key: jax.Array) -> Params:
        dense_key, table_key = jax.random.split(key)
        table = items.initial_item_table(table_key, self.spec.num_items, self.config.dim, scale=self.config.init_scale)
        dense, statistics = init_arrays(self._build, dense_key)
        return Params(dense, {items.ITEM_TABLE: table}, statistics)

    def row_ids(self, batch: Batch, candidates: dict[str, Int32[Array, "..."]]) -> dict[str, dict[str, Array]]:
        return {items.ITEM_TABLE: {items.INPUT: jnp.asarray(batch.item), **candidates}}

    def encode(
        self,
        dense: dict[str, Any],
        rows: dict[str, Rows],
        batch: Batch,
        *,
        statistics: dict[str, Any] | None = None,
        content: Any = None,
        key: jax.Array | None,
        train: bool,
        dtype: Any = jnp.float32,
        row_offset: int | jax.Array = 0,
    ) -> Encoded:
        seeds = None
        if train:
            if key is None:
                raise ValueError("training needs a key for dropout")
            seeds = row_seeds(key, batch.item.shape[0], row_offset)
        inputs = self.item_vectors(dense, rows, content, items.INPUT).astype(dtype)
        return self.module(dense, statistics or {})(inputs, batch, seeds)

    def item_vectors(
        self, dense: dict[str, Any], rows: dict[str, Rows], content: Any, ids: str | None
    ) -> Float[Array, "... D"]:
        del dense, content
        table = rows[items.ITEM_TABLE]
        return table.values if ids is None else table.take(ids)

    def scored_items(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return items.scored_items(vectors, self.config.temperature)

    def scored_states(self, h: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return items.scored_states(h, self.config.temperature)

    @property
    def gates(self) -> dict[str, tuple[str, ...]]:
        return getattr(self.config, "gates", {})

    @property
    def recalibrates(self) -> bool:
        return getattr(self._abstract, "recalibrates", False)

    def recalibrate(self, params: Params, codes: TrainingCodes) -> Params:
        if not self.recalibrates:
            return params
        module = self.module(params.dense, params.statistics)
        module.recalibrate(codes)
        dense, statistics = arrays_of(module)
        return replace(params, dense=dense, statistics=statistics)
