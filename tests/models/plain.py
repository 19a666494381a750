"""A model small enough to be worked out by hand, which tells what it is given."""

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp

from mdrec_jax.types import Batch, Encoded, ParameterFacts, Params, Rows
from tests.models.make import SPEC

V, D, ALONE = 48, 4, 0.25


@dataclass(frozen=True)
class Plain:
    """The state is the item's row, scaled and shifted. What else `encode` is given, its statistics tell; what its
    layers did is a function of the item."""

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
        self, dense: Any, rows: dict[str, Rows], batch: Batch, *, statistics: Any = None, key: Any = None,
        train: bool, dtype: Any = jnp.float32, row_offset: Any = 0,
    ) -> Encoded:  # fmt: skip
        shift = jnp.zeros(D) if statistics is None else statistics["shift"]
        h = states(dense["scale"], rows["item"].take("input"), shift)
        real = jnp.asarray(batch.segment) > 0
        number = jnp.arange(len(real))[:, None] + row_offset
        told = {
            "row": number,
            "rows_at_once": len(real),
            "bits": jnp.finfo(dtype).bits,
            "training": float(train),
            "mask": 0.0 if key is None else jax.random.uniform(key),
        }
        sums = {name: jnp.sum(jnp.where(real, value, 0), dtype=jnp.float32) for name, value in told.items()}
        codes = {"half": h / 2, "twice": h * 2, "mask": jnp.broadcast_to(told["mask"], h.shape)}
        return Encoded(h.astype(dtype), {"length": lengths(h, batch)}, sums, codes, {"half": ALONE}, details(batch))

    def item_vectors(self, dense: Any, rows: dict[str, Rows], name: str | None) -> jax.Array:
        del dense
        return rows["item"].values if name is None else rows["item"].take(name)


def states(scale: jax.Array, vectors: jax.Array, shift: jax.Array) -> jax.Array:
    return vectors * scale[None, None] + shift[None, None]


def lengths(h: jax.Array, batch: Batch) -> jax.Array:
    return jnp.sum(jnp.square(h).mean(-1) * (jnp.asarray(batch.weight) > 0))


def details(batch: Batch) -> dict[str, jax.Array]:
    """Loops [L, R, T] and shares of two mixers [L, R, T, 2] of two layers."""
    item = jnp.asarray(batch.item, jnp.float32)
    share = item / SPEC.num_items
    shares = jnp.stack([jnp.stack([share, 1 - share], -1), jnp.stack([1 - share, share], -1)])
    return {"mixed/loops": jnp.stack([item, 2 * item]), "mixed/mixers": shares}
