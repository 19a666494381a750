"""The baselines whose settings are chosen on the validation split, each with its small grid.

    date-popularity    training events before the moment of the query, each half as much after every half-life
    transitions-tuned  transition counts (`transitions.py`) over other distances, histories and smoothing
    itemknn, ease, next-ridge   `item_item.py`

All are counted from training events alone; a history holds what the protocol's split may see, as a model's does. The
moment is the time of the query where the protocol lets it be seen, else that of the latest event of the history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float32

from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.evaluate.baselines import item_item
from mdrec_jax.evaluate.baselines.candidate_items import CandidateItems
from mdrec_jax.evaluate.baselines.transitions import TransitionCounts, count_transitions, reach
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, Some

DAY = 24 * 3600

type Settings = dict[str, float]
type Scores = Float32[np.ndarray, "B W"]


@dataclass(frozen=True)
class Method:
    """A way to score candidate items for some queries, with the settings that are tried."""

    name: str
    grid: tuple[Settings, ...]
    """The first is what is taken where nothing can be chosen."""
    scores: Callable[[EvaluationSet, Some, Settings], Scores]
    after: tuple[Settings, ...] = ()
    """Changes that are tried one by one at the best of the grid, where all combinations would take long."""


def _grid(**choices: tuple[float, ...]) -> tuple[Settings, ...]:
    """All combinations; those that share the first choices stand side by side."""
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


OPEN = ("half_life_days", "smoothing", "shrinkage", "l2")
"""Settings that could be tried further out: a choice at the end of their grid is told."""


def described(chosen: Settings, grid: tuple[Settings, ...]) -> str:
    """What was chosen, for people, and where a grid ended there."""
    parts = []
    for name, value in chosen.items():
        tried = [settings[name] for settings in grid]
        ends = {min(tried): "the least tried", max(tried): "the most tried"} if name in OPEN and value else {}
        parts.append(f"{name} {value:g}" + (f" ({ends[value]})" if value in ends else ""))
    return ", ".join(parts)


def methods_for(candidates: CandidateItems) -> list[Method]:
    """Those that make sense on the data set."""
    manifest, found = candidates.dataset.manifest, []
    if manifest.has_time:
        found.append(_date_popularity(candidates))
    if manifest.ordered:
        found.append(_transitions(candidates))
    decays = (2.0, 1.0, 5.0, 10.0, 0.0) if manifest.ordered else (0.0,)
    found += [_item_knn(candidates, decays), _ease(candidates, decays)]
    if manifest.ordered:
        found.append(_next_ridge(candidates))
    return found


def _date_popularity(candidates: CandidateItems) -> Method:
    order = np.argsort(candidates.time, kind="stable")
    time, column = candidates.time[order], candidates.column[order]

    def scores(eval_set: EvaluationSet, some: Some, settings: Settings) -> Scores:
        life = settings["half_life_days"] * DAY
        moments, side = _moments(eval_set, some)
        out, state = np.empty((len(some), len(candidates.items)), np.float32), np.zeros(len(candidates.items))
        read, now = 0, int(moments.min())
        for query in np.argsort(moments):
            moment = int(moments[query])
            upto = int(np.searchsorted(time, moment, side=side))
            state *= 2.0 ** (-(moment - now) / life)
            state += np.bincount(column[read:upto], 2.0 ** (-(moment - time[read:upto]) / life), len(state))
            out[query], read, now = state, upto, moment
        return out

    return Method("date-popularity", _grid(half_life_days=(60.0, 2.0, 4.0, 8.0, 15.0, 30.0, 240.0, 960.0)), scores)


def _moments(eval_set: EvaluationSet, some: Some) -> tuple[np.ndarray, Literal["left", "right"]]:
    """Each query's moment, and the side on which events of that very moment lie: the query itself is never counted,
    the history's latest event is."""
    queries = eval_set.queries
    if eval_set.protocol.query_time_visible:
        return queries.time[some], "left"
    latest = queries.visible[np.maximum(queries.history_end[some] - 1, 0)]
    first = int(plain(eval_set.dataset.time).min())
    return np.where(queries.history_length[some] > 0, plain(eval_set.dataset.time)[latest], first), "right"


def _transitions(candidates: CandidateItems) -> Method:
    dataset, held = candidates.dataset, {}
    place = np.flatnonzero(plain(dataset.role) == ROLE_TRAIN)
    sequence = np.searchsorted(plain(dataset.sequence_offsets), place, side="right")

    def counts(steps: int) -> TransitionCounts:
        if steps not in held:
            held.clear()
            held[steps] = count_transitions(plain(dataset.item)[place], sequence, dataset.num_items, steps)
        return held[steps]

    def scores(eval_set: EvaluationSet, some: Some, settings: Settings) -> Scores:
        recent = eval_set.latest(some, int(settings["history"]))
        reached = reach(counts(int(settings["steps"])), recent, settings["smoothing"])
        query, item = np.divmod(reached.key, dataset.num_items)
        column = candidates.place[item]
        there = column >= 0
        out = np.tile(candidates.tie_break, (len(some), 1))
        out[query[there], column[there]] += reached.score[there].astype(np.float32)
        return out

    grid = _grid(steps=(5, 3, 10), smoothing=(5.0, 0.0, 1.0, 20.0, 80.0, 320.0, 1280.0), history=(5, 20))
    return Method("transitions-tuned", grid, scores)


def _item_knn(candidates: CandidateItems, decays: tuple[float, ...]) -> Method:
    def scores(eval_set: EvaluationSet, some: Some, settings: Settings) -> Scores:
        shrinkage = settings["shrinkage"]
        matrix = candidates.matrix("itemknn", shrinkage, lambda: item_item.item_knn(*candidates.together, shrinkage))
        return candidates.scores(eval_set, some, matrix, settings["decay"])

    return Method("itemknn", _grid(shrinkage=(10.0, 0.0, 3.0, 30.0, 100.0, 300.0), decay=decays), scores)


def _ease(candidates: CandidateItems, decays: tuple[float, ...]) -> Method:
    def scores(eval_set: EvaluationSet, some: Some, settings: Settings) -> Scores:
        l2 = settings["l2"]
        matrix = candidates.matrix("ease", l2, lambda: item_item.ease(*candidates.together, candidates.alone, l2))
        return candidates.scores(eval_set, some, matrix, settings["decay"])

    return Method("ease", _grid(l2=(100.0, 25.0, 400.0, 1600.0, 6400.0), decay=decays), scores)


def _next_ridge(candidates: CandidateItems) -> Method:
    def scores(eval_set: EvaluationSet, some: Some, settings: Settings) -> Scores:
        decay, l2 = settings["decay"], settings["l2"]
        events = candidates.events
        matrix = candidates.matrix("next-ridge", (decay, l2), lambda: item_item.ridge_inverse(events, decay, l2))
        follows = candidates.matrix("follows", decay, lambda: item_item.ridge_follows(events, decay))
        return candidates.scores(eval_set, some, matrix, decay, then=follows)

    grid = _grid(decay=(2.0,), l2=(100.0, 10.0, 30.0, 300.0, 1000.0))
    return Method("next-ridge", grid, scores, after=({"decay": 1.0}, {"decay": 5.0}))
