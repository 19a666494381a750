"""A model small enough to be worked out by hand, which tells what it is given."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from mdrec_jax.models.encoded import Encoded, Trace
from mdrec_jax.models.layers.router import Routed
from mdrec_jax.types import Batch, ParameterFacts, Params, Rows
from tests.models.make import SPEC

V, D = 48, 4


@dataclass(frozen=True)
class Plain:
    """The state is the item's row, scaled and shifted. What else `encode` is given in training, its traces tell;
    otherwise what its layers did is a function of the item."""

    spec = SPEC
    facts = Params(
        {"scale": ParameterFacts(("embed",), "shared", "vector", (D,))},
        cast(Any, {"item": ParameterFacts(("table", "embed"), "shared", "table", (V, D))}),
        {"shift": ParameterFacts(("embed",), "shared", "statistic", (D,))},
    )

    def init(self, key: jax.Array) -> Params:
        one, two, three = jax.random.split(key, 3)
        normal = jax.random.normal
        return Params({"scale": normal(one, (D,))}, {"item": normal(two, (V, D))}, {"shift": normal(three, (D,))})

    def row_ids(self, batch: Batch, candidates: dict[str, jax.Array]) -> dict[str, dict[str, Any]]:
        return {"item": {"input": batch.item, **candidates}}

    def encode(
        self, dense: Any, rows: dict[str, Rows], batch: Batch, *, statistics: Any = None, content: Any = None,
        key: Any = None, train: bool, dtype: Any = jnp.float32, row_offset: Any = 0,
    ) -> Encoded:  # fmt: skip
        shift = jnp.zeros(D) if statistics is None else statistics["shift"]
        h = states(dense["scale"], self.item_vectors(dense, rows, content, "input"), shift)
        codes = cast(Any, Halves(h / 2, h * 2))
        if not train:
            return Encoded(h.astype(dtype), codes=codes, traces={"mixed": trace(batch)})
        told = {
            "row": jnp.arange(len(h))[:, None] + row_offset,
            "rows_at_once": len(h),
            "bits": jnp.finfo(dtype).bits,
            "mask": jax.random.uniform(key),
        }
        given = {name: jnp.broadcast_to(jnp.float32(value), (1, *h.shape[:2])) for name, value in told.items()}
        return Encoded(h.astype(dtype), codes=codes, traces={name: Trace(value) for name, value in given.items()})

    def item_vectors(self, dense: Any, rows: dict[str, Rows], content: Any, ids: str | None) -> jax.Array:
        del dense, content
        return rows["item"].values if ids is None else rows["item"].take(ids)

    def scored_items(self, vectors: jax.Array) -> jax.Array:
        return vectors

    def scored_states(self, h: jax.Array) -> jax.Array:
        return h

    gates: ClassVar = {}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Halves:
    """Codes: half the state, and twice."""

    shared: jax.Array
    specific: jax.Array
    whitened: jax.Array | None = None
    erasure: jax.Array | None = None
    cross_domain: jax.Array | None = None


def states(scale: jax.Array, vectors: jax.Array, shift: jax.Array) -> jax.Array:
    return vectors * scale[None, None] + shift[None, None]


def trace(batch: Batch) -> Trace:
    """Passes [L, R, T] and shares of two mixers [L, P, R, T, 2] of two layers."""
    item = jnp.asarray(batch.item, jnp.float32)
    share = item / SPEC.num_items
    shares = jnp.stack([jnp.stack([share, 1 - share], -1), jnp.stack([1 - share, share], -1)])[:, None]
    both = jnp.broadcast_to(jnp.arange(2), shares.shape)
    return Trace(jnp.stack([item, 2 * item]), {"mixers": Routed(jnp.log(shares), both, shares)}, batch.segment)
