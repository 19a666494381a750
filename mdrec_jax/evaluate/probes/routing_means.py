"""What a model did with the events of evaluation histories: passes through its blocks, and where its routers sent them.

Means over events, by layer and by what is known of the event: its domain, its behaviour type, the time since the event
before, and how many events of its history stand up to it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mdrec_jax.data.batching.queries import query_batches
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.metrics import HISTORY_EDGES, span_names
from mdrec_jax.evaluate.scorer import Scorer
from mdrec_jax.models.api import Model, encode_batch
from mdrec_jax.models.encoded import trace_details
from mdrec_jax.models.layers.context import GAP_NAMES, gap_bucket
from mdrec_jax.parallel.mesh import DATA, by_row, replicated
from mdrec_jax.types import Batch, Params

LAYOUTS = (("domain",), ("event",), ("gap",), ("history",), ("domain", "history"))
"""What the means are laid out by. `gap` is there where the data set has times."""


@dataclass(frozen=True)
class RoutingRow:
    """
    Args:
        view: `mixed` or `in_domain`.
        what: `loops`; `mixers` or `experts`, whose means are weights that sum to 1; `mixers_entropy`,
            `experts_entropy`: of the router, 1 where it knows no difference.
        layer: from 1.
        where: what the events have in common, such as {"domain": "books", "history": "5-9"}.
        events: how many there are.
        mean: by the choice's name.
    """

    view: str
    what: str
    layer: int
    where: dict[str, str]
    events: int
    mean: dict[str, float]


@dataclass(frozen=True)
class Routing:
    """
    Args:
        queries: whose histories were read.
        counts: queries of the split that were not, by reason.
        events: of those histories, each once a history that holds it.
        rows: in a fixed order; groups without an event have none.
    """

    split: str
    queries: int
    counts: dict[str, int]
    events: int
    rows: tuple[RoutingRow, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_routing(scorer: Scorer, eval_set: EvaluationSet, gates: dict[str, tuple[str, ...]]) -> Routing:
    """Runs the model over the histories of the queries, without dropout.

    Args:
        gates: the choices' names, by the name of their layer; `Model.gates`.
    """
    dataset = eval_set.dataset
    source = query_batches(
        dataset, eval_set.queries, scorer.batching, rows=scorer.rows, query_time=scorer.sees_query_time
    )
    names = _names(eval_set)
    run, sums, counts, events = _tracer(scorer.model, scorer.mesh, scorer.dtype), {}, {}, 0
    for place in range(len(source)):
        batch, _ = source[place]
        real = np.asarray(batch.segment) > 0
        events += int(real.sum())
        facts = {name: fact[real] for name, fact in _facts(batch).items() if name in names}
        found = jax.device_get(run(scorer.params, jax.device_put(batch, by_row(scorer.mesh))))
        for layout in _layouts(names):
            group = _group(layout, facts, names)
            counts[layout] = counts.get(layout, 0) + group.sum(0)
            for name, detail in found.items():
                each = detail[:, real].reshape(len(detail), len(group), -1).astype(np.float64)
                sums[layout, name] = sums.get((layout, name), 0.0) + group.T @ each
    rows = tuple(_rows(sums, counts, names, gates))
    return Routing(eval_set.protocol.split, len(eval_set), eval_set.counts, events, rows)


def _names(eval_set: EvaluationSet) -> dict[str, tuple[str, ...]]:
    """The groups' names, by what the events are laid out by."""
    manifest = eval_set.dataset.manifest
    names = {"domain": manifest.domains, "event": manifest.event_types}
    if manifest.has_time:
        names |= {"gap": GAP_NAMES}
    return names | {"history": span_names(HISTORY_EDGES[1:])}


def _layouts(names: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [layout for layout in LAYOUTS if set(layout) <= set(names)]


def _facts(batch: Batch) -> dict[str, Int[np.ndarray, "R T"]]:
    """Which group each event is in."""
    gap = gap_bucket(jnp.asarray(batch.segment), jnp.asarray(batch.time))
    history = np.searchsorted(HISTORY_EDGES[1:], np.asarray(batch.position) + 1, side="right") - 1
    return {
        "domain": np.asarray(batch.domain),
        "event": np.asarray(batch.event),
        "gap": np.asarray(gap),
        "history": history,
    }


def _group(
    layout: tuple[str, ...], facts: dict[str, Int[np.ndarray, "N"]], names: dict[str, tuple[str, ...]]
) -> Float[np.ndarray, "N groups"]:
    """One-hot: the group of each event in a layout."""
    number, size = np.zeros_like(facts["domain"]), 1
    for part in layout:
        number, size = number * len(names[part]) + facts[part], size * len(names[part])
    return np.eye(size)[number]


def _rows(
    sums: dict[Any, np.ndarray],
    counts: dict[Any, np.ndarray],
    names: dict[str, tuple[str, ...]],
    gates: dict[str, tuple[str, ...]],
) -> Iterator[RoutingRow]:
    for (layout, name), total in sums.items():
        view, what = name.split("/")
        choices = gates.get(what, (what,))
        shape = [len(names[part]) for part in layout]
        for layer, groups in enumerate(total, start=1):
            for group, each in enumerate(groups):
                if not (events := int(counts[layout][group])):
                    continue
                at = np.unravel_index(group, shape)
                where = {part: names[part][place] for part, place in zip(layout, at, strict=True)}
                mean = dict(zip(choices, (each / events).tolist(), strict=True))
                yield RoutingRow(view, what, layer, where, events, mean)


@lru_cache(maxsize=4)
def _tracer(model: Model, mesh: Mesh, dtype: Any) -> Any:
    """Compiled: (parameters, batch) -> `trace_details`, on every device."""

    def local(params: Params, batch: Batch) -> dict[str, Array]:
        return trace_details(encode_batch(model, params, batch, dtype=dtype).traces)

    specs = {"in_specs": (jax.P(), jax.P(DATA)), "out_specs": jax.P(None, DATA)}
    body = jax.shard_map(local, mesh=mesh, check_vma=False, **specs)
    return jax.jit(body, out_shardings=replicated(mesh))
