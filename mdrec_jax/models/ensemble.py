"""Several trainings of one model, asked as one: an item's score is the mean of their scores.

A score is the logit of its training's softmax, so the mean of the scores ranks as the mean of the log-softmaxes does,
over whatever candidates: they differ by a constant a query. It is one inner product of the states side by side with the
item vectors side by side, so an ensemble is a model like any other, of as many dimensions as its members together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from mdrec_jax.models.api import Model
from mdrec_jax.models.disentangle import TrainingCodes
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.types import Batch, DatasetSpec, Params, Rows


@dataclass(frozen=True)
class Ensemble:
    """
    Args:
        model: each member's functions.
        members: how many there are, at least one.
    """

    model: Model
    members: int

    @property
    def spec(self) -> DatasetSpec:
        return self.model.spec

    @property
    def config(self) -> Any:
        """Each member's."""
        return getattr(self.model, "config", None)

    @property
    def facts(self) -> Params:
        return side_by_side([self.model.facts] * self.members)

    def init(self, key: jax.Array) -> Params:
        """Members of different keys."""
        return side_by_side([self.model.init(one) for one in jax.random.split(key, self.members)])

    def row_ids(self, batch: Batch, candidates: dict[str, Int32[Array, "..."]]) -> dict[str, dict[str, Array]]:
        ids = self.model.row_ids(batch, candidates)
        return {_named(member, table): asked for member in range(self.members) for table, asked in ids.items()}

    def encode(
        self,
        dense: dict[str, Any],
        rows: dict[str, Rows],
        batch: Batch,
        *,
        statistics: dict[str, Any] | None = None,
        train: bool,
        **options: Any,
    ) -> Encoded:
        """As `Model.encode`, states alone: members are trained by themselves.

        Raises:
            ValueError: when training.
        """
        if train:
            raise ValueError("an ensemble is asked, its members are trained")
        states = [
            self.model.encode(
                dense[str(member)],
                _own(rows, member),
                batch,
                statistics=None if statistics is None else statistics[str(member)],
                train=False,
                **options,
            ).h
            for member in range(self.members)
        ]
        return Encoded(jnp.concatenate(states, axis=-1))

    def item_vectors(
        self, dense: dict[str, Any], rows: dict[str, Rows], content: Any, ids: str | None
    ) -> Float[Array, "... D"]:
        vectors = [
            self.model.item_vectors(dense[str(member)], _own(rows, member), content, ids)
            for member in range(self.members)
        ]
        return jnp.concatenate(vectors, axis=-1)

    def scored_items(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        each = [self.model.scored_items(one) for one in jnp.split(vectors, self.members, axis=-1)]
        return jnp.concatenate(each, axis=-1) / self.members

    def scored_states(self, h: Float[Array, "... D"]) -> Float[Array, "... D"]:
        each = [self.model.scored_states(one) for one in jnp.split(h, self.members, axis=-1)]
        return jnp.concatenate(each, axis=-1)

    @property
    def gates(self) -> dict[str, tuple[str, ...]]:
        return {}

    @property
    def recalibrates(self) -> bool:
        return False

    def recalibrate(self, params: Params, codes: TrainingCodes) -> Params:
        """Members are trained, and recalibrated, by themselves."""
        del codes
        return params


def side_by_side(members: Sequence[Params]) -> Params:
    """The parameters of an ensemble."""
    return Params(
        dense={str(member): one.dense for member, one in enumerate(members)},
        tables={_named(member, name): t for member, one in enumerate(members) for name, t in one.tables.items()},
        statistics={str(member): one.statistics for member, one in enumerate(members)},
    )


def _named(member: int, table: str) -> str:
    return f"{member}/{table}"


def _own(rows: dict[str, Rows], member: int) -> dict[str, Rows]:
    """A member's rows, by the names that it knows."""
    start = _named(member, "")
    return {name.removeprefix(start): one for name, one in rows.items() if name.startswith(start)}
