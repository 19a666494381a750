"""Means over events of what a model tells of its layers, against sums written out one event after the other."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.probes.routing_means import Routing, measure_routing
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.scorer import make_scorer
from mdrec_jax.models.api import Model
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from mdrec_jax.train.step import initial_params
from tests.data.make import DAY, make_dataset
from tests.models.make import SPEC
from tests.models.plain import Plain

NAMES = ("first", "second")


def made(out: Path, *, has_time: bool = True) -> Dataset:
    """Twelve people with 3 to 9 events, a day or an hour apart, in two domains."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(12):
        time = user
        for _ in range(int(rng.integers(3, 10))):
            time += int(rng.choice([DAY, 3600]))
            domain = str(rng.choice(["books", "films"]))
            rows.append((f"u{user}", f"{domain}{rng.integers(15)}", domain, time, str(rng.choice(["view", "buy"]))))
    return make_dataset(out, rows, has_time=has_time)


def measured(dataset: Dataset, devices: int = 1) -> tuple[Routing, Any]:
    model, batching = cast(Model, Plain()), BatchingConfig(rows=2, row_length=16, max_length=16)
    scorer = make_scorer(model, initial_params(model, 0), batching, mesh=make_mesh(MeshConfig(devices)))
    eval_set = evaluation_set(dataset, Protocol())
    return measure_routing(scorer, eval_set, {"mixers": NAMES}), eval_set


def events_of(dataset: Dataset, eval_set: EvaluationSet) -> list[dict[str, Any]]:
    """Each event of each history of a query (once a domain): its item, and its groups."""
    queries, events = eval_set.queries, []
    offsets, places = queries.history_places(np.arange(len(queries)))
    each = zip(pairwise(offsets), queries.domain, strict=True)
    histories = {(tuple(places[begin:end].tolist()), int(domain)) for (begin, end), domain in each}
    manifest = dataset.manifest
    for history, _ in histories:
        for number, place in enumerate(history):
            gap = int(dataset.time[place] - dataset.time[history[number - 1]]) if number else -1
            events.append(
                {
                    "item": int(dataset.item[place]),
                    "domain": manifest.domains[dataset.domain[place]],
                    "event": manifest.event_types[dataset.event[place]],
                    "gap": gap,
                    "history": "1-4" if number < 4 else "5-9",
                }
            )
    return events


@pytest.mark.parametrize("devices", [1, 2])
def test_means_are_those_over_the_events_of_a_group(devices: int, tmp_path: Path) -> None:
    dataset = made(tmp_path / "world")
    assert dataset.num_items <= SPEC.num_items
    routing, eval_set = measured(dataset, devices)
    events = events_of(dataset, eval_set)
    assert (routing.events, routing.queries, routing.split) == (len(events), len(eval_set), "test")
    assert routing.to_json()["rows"][0]["layer"] == 1
    for layout in (("domain",), ("event",), ("history",), ("domain", "history")):
        groups = defaultdict(list)
        for event in events:
            groups[tuple((name, event[name]) for name in layout)].append(event["item"])
        for layer in (1, 2):
            for what in ("loops", "mixers"):
                rows = [r for r in routing.rows if (tuple(r.where), r.layer, r.what) == (layout, layer, what)]
                assert {row.view for row in rows} == {"mixed"}
                assert {tuple(row.where.items()): row.events for row in rows} == {
                    group: len(items) for group, items in groups.items()
                }
                for row in rows:
                    mean = float(np.mean(groups[tuple(row.where.items())]))
                    share = mean / SPEC.num_items
                    shares = (share, 1 - share) if layer == 1 else (1 - share, share)
                    told = {"loops": layer * mean} if what == "loops" else dict(zip(NAMES, shares, strict=True))
                    assert row.mean == pytest.approx(told, rel=1e-5)


def test_gaps_are_named_where_there_are_times(tmp_path: Path) -> None:
    dataset = made(tmp_path / "world")
    routing, eval_set = measured(dataset)
    gaps = [event["gap"] for event in events_of(dataset, eval_set)]
    rows = {r.where["gap"]: r.events for r in routing.rows if (list(r.where), r.layer, r.what) == (["gap"], 1, "loops")}
    days = sum(gap >= DAY for gap in gaps)  # an event between two others may have been left out as a repeat
    assert rows == {"none before": gaps.count(-1), "< 3 days": days, "< 6 h": len(gaps) - gaps.count(-1) - days}
    without, _ = measured(made(tmp_path / "without", has_time=False))
    assert {name for row in without.rows for name in row.where} == {"domain", "event", "history"}
