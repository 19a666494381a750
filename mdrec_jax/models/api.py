"""What a model is to the rest of the project, and the table of models."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.bsarec import BsarecConfig, make_bsarec
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import TrainingCodes
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.gru4rec import Gru4RecConfig, make_gru4rec
from mdrec_jax.models.hstu import HstuConfig, make_hstu
from mdrec_jax.models.recommender import make_recommender
from mdrec_jax.types import Batch, DatasetSpec, Params, Rows

type ModelConfig = RecommenderConfig | HstuConfig | Gru4RecConfig | BsarecConfig

MODELS: dict[type, Callable[..., Any]] = {
    RecommenderConfig: make_recommender,
    HstuConfig: make_hstu,
    Gru4RecConfig: make_gru4rec,
    BsarecConfig: make_bsarec,
}
"""What makes a model of a configuration."""


class Model(Protocol):
    """Pure functions of parameters, rows and a batch. A model holds no array and is hashable.

    No function receives a whole table: the step looks rows up (outside the differentiated function) by the ids that
    `row_ids` names, and hands them over as `Rows`.
    """

    @property
    def spec(self) -> DatasetSpec: ...

    @property
    def facts(self) -> Params:
        """`Params` like `init`'s with `ParameterFacts` in place of arrays."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 arrays: nested dicts of parameters and of statistics, and tables of
        `table_length(spec.num_items)` rows."""
        ...

    def row_ids(self, batch: Batch, candidates: dict[str, Int32[Array, "..."]]) -> dict[str, dict[str, Array]]:
        """For each table, the ids whose rows are needed, by name: the batch's inputs, and the candidates."""
        ...

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
        """One state a token, of what the segment holds up to and with that token.

        Args:
            dense: as `init` makes them.
            rows: as a lookup of `row_ids` returns them.
            batch: R rows of T tokens, packed.
            statistics: as `init` makes them, or as they were worked out since; None for a model that has none.
            content: as of `item_vectors`.
            key: of the dropout masks; may be None when not training.
            train: whether dropout is on.
            dtype: of activations and matrix products. Parameters stay float32; norms' and softmax's statistics are
                worked out in float32 or wider.
            row_offset: the global number of the batch's first row: masks depend on it alone, not on the device.

        Returns:
            `Encoded` with `h` [R, T, D] in `dtype`; finite at padding, too.

        Raises:
            ValueError: parameters or statistics that are not this model's.
        """
        ...

    def item_vectors(
        self, dense: dict[str, Any], rows: dict[str, Rows], content: Any, ids: str | None
    ) -> Float[Array, "... D"]:
        """The items' vectors, which histories are made of and, as `scored_items`, states are scored against.

        Args:
            content: features of the items, for a model that reads any.
            ids: the name under which the items were looked up; None for all rows.
        """
        ...

    def scored_items(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Item vectors whose inner products with `h` are the logits."""
        ...

    def scored_states(self, h: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """States, such as a code by itself, as `h` is: ready for inner products."""
        ...

    @property
    def gates(self) -> dict[str, tuple[str, ...]]:
        """The names of what each routed layer chooses from."""
        ...

    @property
    def recalibrates(self) -> bool:
        """Whether `recalibrate` does anything."""
        ...

    def recalibrate(self, params: Params, codes: TrainingCodes) -> Params:
        """The parameters and statistics with what is worked out in closed form from training histories."""
        ...


def make_model(config: ModelConfig, spec: DatasetSpec) -> Model:
    """The model that `config` describes, for a data set.

    Raises:
        InputError: when the data set lacks what the model needs (an order of events, times).
    """
    return MODELS[type(config)](config, spec)


def kind_of(config: ModelConfig) -> str:
    """The model's kind as tables name it: `mdrec`, `sasrec`, `hstu`, `gru4rec`, `bsarec`."""
    own = type(config).__name__.removesuffix("Config").lower()
    return config.kind if isinstance(config, RecommenderConfig) else own


def encode_batch(model: Model, params: Params, batch: Batch, *, dtype: Any = jnp.float32) -> Encoded:
    """What a model makes of a batch without dropout, its tables read whole."""
    rows = {name: Rows(params.tables[name], ids) for name, ids in model.row_ids(batch, {}).items()}
    return model.encode(params.dense, rows, batch, statistics=params.statistics, key=None, train=False, dtype=dtype)


def parameter_facts(model: Model) -> Params:
    """Logical axes, scope, group and shape of every array, in a tree like `Model.init`'s."""
    return model.facts
