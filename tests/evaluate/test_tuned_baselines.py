"""The baselines with settings: which are tried, in which order, and what their scores are, on a handful of events."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.baselines import item_item, tuning
from mdrec_jax.evaluate.baselines.candidate_items import FAINT, TIE_BREAK, CandidateItems
from mdrec_jax.evaluate.baselines.item_item import Sequences
from mdrec_jax.evaluate.baselines.tuned_baselines import Method, _moments, described, methods_for
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.protocol import Protocol
from tests.data.make import DAY, make_dataset

ROWS = [
    ("a", "1", "x", 0, 0), ("a", "2", "x", 1, 0), ("a", "3", "x", 2, 0), ("a", "1", "x", 3, 1), ("a", "2", "x", 9, 2),
    ("b", "2", "x", 1, 0), ("b", "2", "x", 2, 0), ("b", "9", "y", 3, 0), ("b", "3", "x", 4, 0), ("b", "1", "x", 8, 2),
    ("c", "4", "x", 5, 2),
    ("d", "3", "x", 1, 0), ("d", "8", "y", 2, 0), ("d", "1", "x", 3, 0), ("d", "2", "x", 6, 1), ("d", "5", "x", 7, 2),
    ("e", "1", "x", 2, 0), ("e", "2", "x", 5, 2),
]  # fmt: skip
"""User, item, domain, day, role."""
LATEST = {"a": 3, "b": 4, "c": 0, "d": 6, "e": 2}
"""The day of the last event that a test query sees."""


def dataset(out: Path, **options: Any) -> Dataset:
    rows = [(user, item, domain, day * DAY) for user, item, domain, day, _ in ROWS]
    return make_dataset(out, rows, default_split="given", role=[row[4] for row in ROWS], **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("methods") / "world")


@pytest.fixture(scope="module")
def eval_set(world: Dataset) -> EvaluationSet:
    return evaluation_set(world, Protocol())


@pytest.fixture(scope="module")
def candidates(eval_set: EvaluationSet) -> CandidateItems:
    return CandidateItems.of(eval_set, 0)


@pytest.fixture(scope="module")
def methods(candidates: CandidateItems) -> dict[str, Method]:
    return {one.name: one for one in methods_for(candidates)}


@pytest.fixture(scope="module")
def some(eval_set: EvaluationSet) -> np.ndarray:
    return np.flatnonzero(eval_set.queries.domain == 0)


def users(world: Dataset) -> list[str]:
    """In the order of the data set, which is that of the queries: each has one about the first domain."""
    return [name for _, name in sorted(zip(world.lookup_users(list("abcde")).tolist(), "abcde", strict=True))]


def trained(world: Dataset) -> list[tuple[str, str, str, int, int]]:
    """The training events in the order of the data set."""
    return [row for user in users(world) for row in ROWS if row[0] == user and row[4] == 0]


def raw(world: Dataset, items: np.ndarray) -> list[str]:
    """What the source calls items of the first domain."""
    names = dict(world.items(0).select("id", "raw").iter_rows())
    return [names.get(int(item), "") for item in items]


def test_every_method_tries_its_documented_settings(methods: dict[str, Method]) -> None:
    tried = {
        name: {key: [*dict.fromkeys(one[key] for one in method.grid)] for key in method.grid[0]}
        for name, method in methods.items()
    }
    decay = [2, 1, 5, 10, 0]
    assert tried == {
        "date-popularity": {"half_life_days": [60, 2, 4, 8, 15, 30, 240, 960]},
        "transitions-tuned": {
            "steps": [5, 3, 10],
            "smoothing": [5, 0, 1, 20, 80, 320, 1280],
            "history": [5, 20],
        },
        "itemknn": {"shrinkage": [10, 0, 3, 30, 100, 300], "decay": decay},
        "ease": {"l2": [100, 25, 400, 1600, 6400], "decay": decay},
        "next-ridge": {"decay": [2], "l2": [100, 10, 30, 300, 1000]},
    }
    assert {name: method.after for name, method in methods.items() if method.after} == {
        "next-ridge": ({"decay": 1}, {"decay": 5})
    }
    for name, method in methods.items():
        whole = np.prod([len(values) for values in tried[name].values()])
        assert len(method.grid) == whole, "all combinations, each once"
        assert len({tuple(one.items()) for one in method.grid}) == whole
        first = [one[next(iter(one))] for one in method.grid]
        assert first == sorted(first, key=tried[name][next(iter(tried[name]))].index), "side by side"


def test_without_order_or_times_what_needs_them_is_left_out(tmp_path: Path) -> None:
    found = dataset(tmp_path / "world", has_time=False, ordered=False)
    left = methods_for(CandidateItems.of(evaluation_set(found, Protocol()), 0))
    assert [one.name for one in left] == ["itemknn", "ease"]
    assert {settings["decay"] for one in left for settings in one.grid} == {0}


def test_with_an_order_but_no_times_dates_alone_are_left_out(tmp_path: Path) -> None:
    found = dataset(tmp_path / "world", has_time=False)
    names = [one.name for one in methods_for(CandidateItems.of(evaluation_set(found, Protocol()), 0))]
    assert names == ["transitions-tuned", "itemknn", "ease", "next-ridge"]


@pytest.mark.parametrize("name", ["half_life_days", "smoothing", "shrinkage", "l2"])
def test_what_could_be_tried_further_out_is_told(name: str) -> None:
    grid = tuple({name: value} for value in (4.0, 2.0, 8.0))
    told_at = {value: described({name: value}, grid) for value in (2.0, 4.0, 8.0)}
    assert told_at == {
        2.0: f"{name} 2 (the least tried)", 4.0: f"{name} 4", 8.0: f"{name} 8 (the most tried)"
    }  # fmt: skip
    assert described({"steps": 5}, ({"steps": 5}, {"steps": 3})) == "steps 5"


def test_a_moment_is_the_latest_visible_event_or_where_it_may_be_seen_the_querys_own_time(
    world: Dataset, eval_set: EvaluationSet, some: np.ndarray
) -> None:
    moments, side = _moments(eval_set, some)
    found = dict(zip(users(world), (moments // DAY).tolist(), strict=True))
    assert (found, side) == (LATEST, "right"), "nothing was seen of c: the first day"
    moments, side = _moments(evaluation_set(world, Protocol(query_time_visible=True)), some)
    found = dict(zip(users(world), (moments // DAY).tolist(), strict=True))
    assert (found, side) == ({"a": 9, "b": 8, "c": 5, "d": 7, "e": 5}, "left")


def test_popularity_by_date_halves_with_every_half_life(
    world: Dataset, eval_set: EvaluationSet, candidates: CandidateItems, methods: dict[str, Method], some: np.ndarray
) -> None:
    found = methods["date-popularity"].scores(eval_set, some, {"half_life_days": 1.0})
    for row, user in zip(found, users(world), strict=True):
        moment = LATEST[user]
        expected = dict.fromkeys(raw(world, candidates.items), 0.0)
        for _, item, domain, day, role in ROWS:
            if role == 0 and domain == "x" and day <= moment:
                expected[item] += 0.5 ** (moment - day)
        assert row.tolist() == pytest.approx([expected[name] for name in raw(world, candidates.items)])


def test_tuned_transitions_count_as_far_and_smooth_as_they_are_told(
    world: Dataset, eval_set: EvaluationSet, candidates: CandidateItems, methods: dict[str, Method], some: np.ndarray
) -> None:
    method, names = methods["transitions-tuned"], raw(world, candidates.items)
    for settings in (
        {"steps": 1, "smoothing": 2.0, "history": 5}, {"steps": 3, "smoothing": 0.5, "history": 5},
        {"steps": 3, "smoothing": 0.5, "history": 1}, {"steps": 1, "smoothing": 2.0, "history": 5},
    ):  # fmt: skip
        counts: dict[str, dict[str, float]] = {}
        for rows in ([row for row in trained(world) if row[0] == user] for user in users(world)):
            for place, row in enumerate(rows):
                for back in range(1, min(settings["steps"], place) + 1):
                    of = counts.setdefault(rows[place - back][1], {})
                    of[row[1]] = of.get(row[1], 0) + 1 / back
        found = method.scores(eval_set, some, settings)
        for row, user in zip(found, users(world), strict=True):
            visible = [one for one in ROWS if one[0] == user and one[4] < 2][::-1][: settings["history"]]
            expected = dict(zip(names, candidates.tie_break.tolist(), strict=True))
            for back, one in enumerate(visible):
                of = counts.get(one[1], {})
                for item, value in of.items():
                    if item in expected:
                        expected[item] += value / (sum(of.values()) + settings["smoothing"]) / (back + 1)
            assert row.tolist() == pytest.approx(list(expected.values()), abs=1e-7), settings


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("itemknn", {"shrinkage": 3.0, "decay": 2.0}), ("itemknn", {"shrinkage": 0.0, "decay": 0.0}),
        ("ease", {"l2": 4.0, "decay": 1.0}), ("next-ridge", {"l2": 4.0, "decay": 2.0}),
        ("next-ridge", {"l2": 1.0, "decay": 1.0}), ("next-ridge", {"l2": 1.0, "decay": 2.0}),
    ],
)  # fmt: skip
def test_linear_scores_are_the_decayed_history_times_the_methods_matrix(
    name: str,
    settings: dict[str, float],
    eval_set: EvaluationSet,
    candidates: CandidateItems,
    methods: dict[str, Method],
    some: np.ndarray,
) -> None:
    events = candidates.events
    together, counts = item_item.together(events)
    if name == "itemknn":
        matrix = item_item.item_knn(together, counts, settings["shrinkage"])
    elif name == "ease":
        matrix = item_item.ease(together, counts, events.alone(), settings["l2"])
    else:
        matrix = item_item.ridge_inverse(events, settings["decay"], settings["l2"])
        matrix = matrix @ item_item.ridge_follows(events, settings["decay"])
    found = methods[name].scores(eval_set, some, settings)
    for row, query in zip(found, some, strict=True):
        places = eval_set.queries.history_places(np.array([query]))[1]
        items = [
            int(candidates.number[candidates.place[i]])
            for i in np.asarray(eval_set.dataset.item)[places]
            if candidates.place[i] >= 0
        ]
        items = [number for number in items if number >= 0]
        expected = candidates.tie_break.copy()
        for back, number in enumerate(items[::-1]):
            weight = np.exp(-back / settings["decay"]) if settings["decay"] else 1.0
            expected[candidates.known] += np.float32(weight) * matrix[number]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_candidate_items_hold_the_training_events_about_them(world: Dataset, candidates: CandidateItems) -> None:
    names = raw(world, candidates.items)
    assert sorted(names) == ["1", "2", "3", "4", "5"]
    mine = [(user, item, day) for user, item, domain, day, _ in trained(world) if domain == "x"]
    assert [names[column] for column in candidates.column] == [item for _, item, _ in mine]
    assert (candidates.time // DAY).tolist() == [day for *_, day in mine]
    owners = [user for user, _, _ in mine]
    same = [[one == other for other in owners] for one in owners]
    assert (candidates.sequence[:, None] == candidates.sequence).tolist() == same
    counts = dict(zip(names, candidates.popularity.tolist(), strict=True))
    assert counts == {"1": 3, "2": 3, "3": 3, "4": 0, "5": 0}
    assert candidates.tie_break.tolist() == pytest.approx([TIE_BREAK * counts[name] / 3 for name in names])
    assert [names[column] for column in candidates.known] == [name for name in names if counts[name]]
    assert candidates.left_out == 0
    assert candidates.place[candidates.items].tolist() == [0, 1, 2, 3, 4]
    others = np.setdiff1d(np.arange(world.num_items), candidates.items)
    assert set(candidates.place[others].tolist()) == {-1}
    numbers = [-1 if not counts[name] else [n for n in names if counts[n]].index(name) for name in names]
    assert candidates.number.tolist() == numbers
    assert [names[candidates.known[number]] for number in candidates.events.item] == [item for _, item, _ in mine]
    assert candidates.events.sequence.tolist() == candidates.sequence.tolist()
    assert candidates.events.items == 3


def test_a_catalogue_that_training_never_met_breaks_no_ties(world: Dataset, eval_set: EvaluationSet) -> None:
    nothing = np.zeros(0, np.int64)
    empty = CandidateItems(world, eval_set.universe(0), nothing, nothing, nothing)
    assert empty.tie_break.tolist() == [0.0] * 5
    assert len(empty.known) == 0
    assert empty.left_out == 0


def test_the_most_frequent_items_have_the_columns_of_matrices(
    world: Dataset, eval_set: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_item, "LARGEST", 2)
    column = np.array([4, 1, 4, 3, 1, 4])
    small = CandidateItems(world, eval_set.universe(0), column, np.zeros(6, np.int64), np.zeros(6, np.int64))
    assert small.known.tolist() == [1, 4]
    assert small.left_out == 1
    assert small.number.tolist() == [-1, 0, -1, -1, 1]
    assert small.events.item.tolist() == [1, 0, 1, 0, 1], "events of the other item are gone"
    assert small.tie_break.tolist() == pytest.approx([0, TIE_BREAK * 2 / 3, 0, TIE_BREAK / 3, TIE_BREAK])
    once = CandidateItems(world, eval_set.universe(0), column[3:4], np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert once.tie_break.tolist() == pytest.approx([0, 0, 0, TIE_BREAK, 0])


def test_the_last_matrix_of_every_method_is_kept(eval_set: EvaluationSet) -> None:
    candidates, made = CandidateItems.of(eval_set, 0), []

    def make(name: str) -> Any:
        def made_now() -> np.ndarray:
            assert name[0] not in candidates._matrices, "two of a method are never held at once"
            made.append(name)
            return np.full((1, 1), len(made), np.float32)

        return made_now

    for name, settings in (("a", 1), ("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 2), ("b", 1), ("a", 1)):
        candidates.matrix(name, settings, make(f"{name}{settings}"))
    assert made == ["a1", "b1", "a2", "a1"]
    assert candidates.matrix("b", 1, make("b1")) == np.full((1, 1), 2)


def test_faint_items_of_a_long_history_are_left_out(eval_set: EvaluationSet) -> None:
    candidates = CandidateItems.of(eval_set, 0)
    size, some = len(candidates.known), np.flatnonzero(eval_set.queries.history_length == 4)[:1]
    items = np.asarray(eval_set.dataset.item)[eval_set.queries.history_places(some)[1]]
    own = [int(candidates.number[candidates.place[i]]) for i in items if candidates.place[i] >= 0]
    matrix = np.eye(size, dtype=np.float32)
    for decay, heard in ((0.2, 2), (0.1, 1), (0.3, 3)):  # exp(-1 / decay) to some power falls below FAINT
        found = (candidates.scores(eval_set, some, matrix, decay) - candidates.tie_break)[0, candidates.known]
        weights = [np.exp(-back / decay) for back in range(len(own))]
        expected = np.zeros(size)
        np.add.at(expected, own[::-1], [weight if weight > FAINT else 0 for weight in weights])
        assert sum(weight > FAINT for weight in weights) == heard
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_tuning_has_its_documented_limits() -> None:
    assert (tuning.QUERIES, tuning.HELD * 4, tuning.ROUNDS) == (3000, 1 << 30, 2)
    assert tuning.WEIGHTS == (0.0, 0.3, 1.0, 3.0)
    assert (TIE_BREAK, FAINT) == (1e-6, 1e-3)
    assert (item_item.LARGEST**2 * 4 >> 20, item_item.LARGEST, item_item.WINDOW) == (976, 16_000, 30)


class OneRank:
    """A competition whose first query has rank 1 where its scores say so."""

    def __init__(self, liked: dict[float, float]) -> None:
        self.liked = liked

    def ranks(self, scores: np.ndarray) -> np.ndarray:
        return np.array([[self.liked.get(round(float(scores[0, 0]), 2), 50.0)]])


def test_weights_of_a_sum_are_chosen_in_turn_and_equals_change_nothing() -> None:
    a, b = np.full((1, 1), 1.0, np.float32), np.full((1, 1), 10.0, np.float32)

    def chosen(liked: dict[float, float]) -> dict[str, float]:
        return tuning._weights([OneRank(liked)], {"a": [a], "b": [b]})  # pyright: ignore[reportArgumentType]

    assert chosen({}) == {"a": 1.0, "b": 1.0}
    assert chosen({13.0: 1.0}) == {"a": 3.0, "b": 1.0}
    assert chosen({10.3: 1.0}) == {"a": 0.3, "b": 1.0}
    assert chosen({10.0: 2.0, 0.0: 1.0}) == {"a": 0.0, "b": 0.0}, "each in turn"
    assert chosen({13.0: 2.0, 33.0: 1.0, 30.3: 0.5}) == {"a": 0.3, "b": 3.0}, "a second round moves the first again"


def test_settings_after_the_grid_are_tried_at_its_best(eval_set: EvaluationSet, world: Dataset) -> None:
    validation, tried = evaluation_set(world, Protocol(split="validation", seen="none")), []
    candidates = CandidateItems.of(eval_set, 0)
    good = {(2, 1): 2.5, (2, 3): 9.0}

    def scores(eval_set: EvaluationSet, some: np.ndarray, settings: dict[str, float]) -> np.ndarray:
        tried.append((settings["a"], settings["b"]))
        out = np.tile(np.arange(5, dtype=np.float32), (len(some), 1))
        out[np.arange(len(some)), candidates.place[eval_set.queries.target[some]]] = good.get(tried[-1], -1.0)
        return out

    method = Method("m", ({"a": 1, "b": 1}, {"a": 2, "b": 1}), scores, after=({"b": 3}, {"b": 4}))
    found = dict(tuning._choose(candidates, [method], 0, validation))
    assert dict.fromkeys(tried) == dict.fromkeys([(1, 1), (2, 1), (2, 3), (2, 4)])
    assert found["m"] == {"a": 2, "b": 3}
    assert found[tuning.BLEND].keys() == {"m"}
    first = dict(tuning._choose(candidates, [method], 0, None))
    assert first == {"m": {"a": 1, "b": 1}, tuning.BLEND: {"m": 1.0}}
    nobody = dict(tuning._choose(candidates, [method], 7, validation))
    assert nobody == first


def test_an_empty_sequence_of_events_has_no_items_alone() -> None:
    nothing = np.zeros(0, np.int64)
    assert Sequences(nothing, nothing, 3).alone().tolist() == [-1, -1, -1]
