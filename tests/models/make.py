"""Packed batches of given sequences, and models small enough to be run many times."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.models.api import Model, ModelConfig, make_model
from mdrec_jax.models.bsarec import BsarecConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.gru4rec import Gru4RecConfig
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.models.layers.loop import LoopConfig
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.types import Batch, DatasetSpec, Params, Rows

SPEC = DatasetSpec(num_items=40, num_domains=3, num_events=2, has_time=True, last_time=300_000)

COLUMNS = 32
"""Most tests share one shape, so that a model is compiled once for all of them."""

SASREC = RecommenderConfig(dim=8, layers=2, heads=2, attention_window=16, init_scale=0.5)
HSTU = HstuConfig(dim=8, layers=2, heads=2, attention_window=16, init_scale=0.5)
FLAGSHIP = RecommenderConfig(dim=8, layers=1, heads=2, attention_window=16, init_scale=0.5)
PARTS: dict[str, dict[str, Any]] = {
    "views": {"views": ViewsConfig(in_domain=True, path_rank=2)},
    "loop": {"loop": LoopConfig(max_steps=2, rank=2)},
    "learned memory": {"learned_memory": LearnedMemoryConfig(local=5, shared=3)},
    "user memory": {"user_memory": True},
    "mixers": {"mixers": MixersConfig(("attention", "convolution", "context"))},
    "experts": {"experts": ExpertsConfig(per_width=1, multiples=(1.0, 2.0))},
    "codes": {
        "views": ViewsConfig(in_domain=True, path_rank=2),
        "disentangle": DisentangleConfig(codes=True),
    },
    "whitened codes": {
        "views": ViewsConfig(in_domain=True),
        "disentangle": DisentangleConfig(codes=True, shared_rank=3, domain_whitening=True, cross_domain=True),
    },
}
"""The parts of the recommender, each by itself."""

VARIANTS: dict[str, ModelConfig] = {
    "sasrec": SASREC,
    "sasrec, rotary, SwiGLU": RecommenderConfig(
        dim=8, layers=1, heads=2, attention_window=16, init_scale=0.5, positions="rotary", activation="swiglu"
    ),
    "sasrec, domains, events and dates, cosine": RecommenderConfig(
        dim=8,
        layers=1,
        attention_window=16,
        init_scale=0.5,
        domain_embedding=True,
        event_embedding=True,
        date_days=1.0,
        activation="relu",
        temperature=0.05,
    ),
    "hstu": HSTU,
    "hstu without bias": HstuConfig(
        dim=8, layers=1, attention_window=16, init_scale=0.5, position_bias=False, time_bias=False, positions="none"
    ),
    "bsarec": BsarecConfig(dim=8, layers=1, heads=2, attention_window=16, init_scale=0.5),
    "gru4rec, domains and events, cosine": Gru4RecConfig(
        dim=8, layers=2, init_scale=0.5, domain_embedding=True, event_embedding=True, temperature=0.05
    ),
    "mdrec, shared and specific codes": replace(FLAGSHIP, **PARTS["codes"]),
    "mdrec, loop, memories, experts": replace(
        FLAGSHIP, **(PARTS["loop"] | PARTS["learned memory"] | PARTS["user memory"] | PARTS["experts"])
    ),
    "mdrec, two views, mixers, dates": replace(FLAGSHIP, date_days=2.0, **(PARTS["views"] | PARTS["mixers"])),
}
"""One model for every branch of the code."""


def pack(rows: Sequence[Sequence[Sequence[int]]], columns: int = COLUMNS, *, offset: int = 0) -> Batch:
    """A batch of at least two rows: row r holds the sequences `rows[r]` one behind the other, from column `offset` on.

    Domain, event and the gaps between times are functions of the item, and the domain that is asked about is one of the
    position, so equal sequences are equal wherever they lie, and no token knows of a later one.
    """
    rows = [*rows, *([[]] * (2 - len(rows)))]
    shape = (len(rows), columns)
    names = [field.name for field in fields(Batch) if field.name not in ("weight", "segment_user")]
    arrays = {name: np.zeros(shape, np.int32) for name in names}
    arrays["previous_in_target_domain"] -= 1
    for r, sequences in enumerate(rows):
        start = offset
        for number, sequence in enumerate(sequences, start=1):
            item = np.asarray(sequence, np.int32)
            here = (r, slice(start, start + len(item)))
            arrays["item"][here] = item
            arrays["segment"][here] = number
            arrays["position"][here] = np.arange(len(item))
            arrays["domain"][here] = item % SPEC.num_domains
            arrays["event"][here] = item % SPEC.num_events
            arrays["time"][here] = np.cumsum(item * 1000)
            arrays["target"][here] = np.append(item[1:], 0)
            places = _domain_places(item % SPEC.num_domains, start)
            for name, values in places.items():
                arrays[name][here] = values
            arrays["target_time"][here] = np.append(np.cumsum(item * 1000)[1:], 0)
            start += len(item)
    assert start <= columns
    weight = (arrays["target"] > 0).astype(np.float32)
    return Batch(**arrays, weight=weight, segment_user=np.full((len(rows), 8), -1, np.int32))


def _domain_places(domain: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Positions within the domain, the domain asked about, and the column of the latest event in it."""
    asked = np.arange(len(domain)) % SPEC.num_domains
    earlier = [np.flatnonzero(domain[: place + 1] == asked[place]) for place in range(len(domain))]
    return {
        "domain_position": np.asarray([(domain[:place] == own).sum() for place, own in enumerate(domain)], np.int32),
        "target_domain": asked,
        "previous_in_target_domain": np.asarray([start + e[-1] if len(e) else -1 for e in earlier], np.int32),
    }


def random_sequences(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, SPEC.num_items, n).tolist() for n in lengths]


def rows_of(model: Model, params: Params, batch: Batch, **candidates: Any) -> dict[str, Rows]:
    """Rows in `full` mode: the whole table, with the ids themselves as index."""
    return {name: Rows(params.tables[name], index) for name, index in model.row_ids(batch, candidates).items()}


@partial(jax.jit, static_argnames=("model", "train", "dtype"))
def _encode(model: Model, params: Params, batch: Batch, key: jax.Array | None, train: bool, dtype: Any) -> jax.Array:
    rows, statistics = rows_of(model, params, batch), params.statistics
    return model.encode(params.dense, rows, batch, statistics=statistics, key=key, train=train, dtype=dtype).h


def states(
    model: Model,
    params: Params,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    train: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """h [R, T, D], without dropout unless asked for; compiled once a model and shape."""
    return _encode(model, params, batch, key, train, dtype)


@cache
def built(config: ModelConfig, seed: int = 0) -> tuple[Model, Params]:
    """A model and parameters none of which is zero or one, so that every parameter matters."""
    model = make_model(config, SPEC)
    params, rng = model.init(jax.random.key(seed)), np.random.default_rng(seed)
    dense = jax.tree.map(lambda leaf: jnp.asarray(leaf + np.float32(0.1 * rng.normal(size=leaf.shape))), params.dense)
    return model, replace(params, dense=dense)


def relative_error(found: Any, expected: Any) -> float:
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())
