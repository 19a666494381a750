"""Parts of the baselines of counting: what is popular, who competes, what is left out, what a look is recorded as."""

import numpy as np
import pytest

from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.evaluate import cooccurrence
from mdrec_jax.evaluate.baselines import run, transitions
from mdrec_jax.evaluate.baselines.candidate_items import Competition
from mdrec_jax.evaluate.baselines.run import (
    BaselineScores,
    baseline_results,
    baselines_file,
    count_training,
    popularity,
)
from mdrec_jax.evaluate.baselines.transitions import (
    NOTHING_REACHED,
    BaseScores,
    Reached,
    base_scores,
    count_transitions,
    reach,
)
from mdrec_jax.evaluate.cooccurrence import CooccurrenceConfig
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.looks_at_test import LOOKS, read_looks
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from tests.data.make import make_dataset

ROWS = [
    ("a", "1", "x", 0), ("a", "2", "x", 0), ("a", "9", "y", 0), ("a", "1", "x", 1), ("a", "2", "x", 2),
    ("b", "2", "x", 0), ("b", "8", "y", 0), ("b", "9", "y", 0), ("b", "1", "x", 1), ("b", "8", "y", 2),
]  # fmt: skip
"""User, item, domain, role."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("parts") / "world"
    return make_dataset(out, [row[:3] for row in ROWS], default_split="given", role=[row[3] for row in ROWS])


def numbers(world: Dataset) -> dict[str, int]:
    """The id of every raw item."""
    return {raw: number for domain in (0, 1) for raw, number in world.items(domain).select("raw", "id").iter_rows()}


def test_the_documented_settings() -> None:
    assert (transitions.STEPS, transitions.SMOOTHING, transitions.SHARES) == (5, 5.0, 2520)
    assert (run.TIE_BREAK, cooccurrence.LEAST, cooccurrence.ENTRIES) == (1e-6, 0.01, 4 * 2**20)
    assert CooccurrenceConfig().weight == 0.0
    for weight in (-0.1, float("nan")):
        with pytest.raises(ConfigError) as error:
            CooccurrenceConfig(weight)
        assert (error.value.column, error.value.expected) == ("cooccurrence.weight", ">= 0")


def test_an_item_is_as_popular_as_in_the_training_of_its_domain_or_of_all(world: Dataset) -> None:
    ids = numbers(world)
    found = popularity(evaluation_set(world, Protocol()), 0)
    assert found.dtype == np.float64
    assert {raw: found[number] for raw, number in ids.items()} == {"1": 1, "2": 2, "8": 0, "9": 0}
    found = popularity(evaluation_set(world, Protocol(universe="all")), 0)
    assert {raw: found[number] for raw, number in ids.items()} == {"1": 1, "2": 2, "8": 1, "9": 2}


def test_popularity_breaks_the_ties_of_transitions_by_a_millionth() -> None:
    base = run._tie_breaking(np.array([0, 0, 4, 1, 2]), np.array([2, 4]))
    np.testing.assert_allclose(base.score, [0, 0, 1e-6, 0.25e-6, 0.5e-6])
    np.testing.assert_allclose(base.ordered, [0.5e-6, 1e-6])
    assert base.inside.tolist() == [False, False, True, False, True]
    assert run._tie_breaking(np.array([0, 0, 1]), np.array([2])).score.tolist() == [0, 0, 1e-6]
    assert not run._tie_breaking(np.zeros(3, int), np.array([2])).score.any()


def test_what_is_counted_stays_within_its_sequence(world: Dataset) -> None:
    counts, ids = count_training(world, np.asarray(world.role) == 0), numbers(world)
    pairs = {
        (row, int(counts.item[at])): counts.value[at]
        for row in range(world.num_items)
        for at in range(counts.offsets[row], counts.offsets[row + 1])
    }
    own = {("1", "2"): 1, ("1", "9"): 0.5, ("2", "9"): 1.5, ("2", "8"): 1, ("8", "9"): 1}
    assert pairs == {(ids[first], ids[second]): value for (first, second), value in own.items()}


def test_the_latest_items_are_those_of_one_domain_where_one_is_named(world: Dataset) -> None:
    eval_set, ids = evaluation_set(world, Protocol()), numbers(world)
    some = np.arange(2)
    visible = {user: [row for row in ROWS if row[0] == user and row[3] < 2][::-1] for user in "ab"}
    users = [u for _, u in sorted(zip(world.lookup_users(["a", "b"]).tolist(), "ab", strict=True))]
    for domain, name in ((None, "xy"), (0, "x"), (1, "y")):
        expected = [[ids[row[1]] for row in visible[user] if row[2] in name] for user in users]
        expected = [one + [0] * (5 - len(one)) for one in expected]
        assert run._recent(eval_set, some, domain).tolist() == expected


def test_every_domains_own_transitions_are_a_baseline_beside_the_shared_ones(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    train = np.asarray(world.role) == 0
    found = run._baselines_of(eval_set, 0, train, count_training(world, train))
    assert list(found) == ["popularity", "transitions", "transitions-local"]
    ids, some = numbers(world), np.arange(2)
    assert found["popularity"].reach(some) is NOTHING_REACHED
    assert found["popularity"].base.score[ids["2"]] == 2
    for name, shares in (("transitions", {"2": 1, "9": 1}), ("transitions-local", {"2": 1, "1": 0.5})):
        base = found[name].base
        assert {raw: base.score[ids[raw]] for raw in shares} == pytest.approx({r: v * 1e-6 for r, v in shares.items()})
        assert base.inside[[ids["1"], ids["2"]]].all()
        assert not base.inside[[ids["8"], ids["9"]]].any()
    mixed, local = (found[name].reach(some) for name in ("transitions", "transitions-local"))
    assert len(mixed.key) > len(local.key)
    assert set((local.key % world.num_items).tolist()) == {ids["2"]}


def test_results_of_baselines_lie_with_the_data_set_under_split_protocol_seed_and_time(world: Dataset) -> None:
    def name(protocol: Protocol) -> str:
        path = baselines_file(world, protocol)
        assert path.parent == world.path / "baselines"
        return path.name

    assert name(Protocol()) == "test-full.json"
    assert name(Protocol(split="validation")) == "validation-full.json"
    assert name(Protocol(query_time_visible=True)) == "test-full-query-time.json"
    assert name(parse_protocol("uniform9x2", seed=3)) == "test-uniform9x2-seed-3.json"
    assert name(Protocol("fixed:a/b", candidates="fixed", file="a/b")) == "test-fixed-a-b.json"


def test_a_look_of_baselines_at_test_is_recorded_and_one_at_validation_is_not(
    world: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checked = world.path / "baselines", []
    monkeypatch.setattr(run, "check_recordable", checked.append)
    results, ranks = baseline_results(world, Protocol(split="validation"))
    assert checked == []
    assert not (folder / LOOKS).exists()
    assert (results.settings, results.config) == ({}, None)
    results, ranks = baseline_results(world, Protocol(), metrics=("mrr",))
    assert checked == [folder]
    (look,) = read_looks(folder)
    figures = {name: {row.domain: row.metrics for row in results.rows if row.model == name} for name in ranks}
    models = {name: {place: figures[name][place] for place in ("all", "macro")} for name in ranks}
    assert {name: value for name, value in look.items() if name != "time"} == {
        "by": "Python", "what": "baselines", "protocol": "full", "split": "test", "dataset": world.hash,
        "models": models,
    }  # fmt: skip
    baseline_results(world, Protocol(), by="somebody")
    assert read_looks(folder)[1]["by"] == "somebody"


def test_ranks_among_all_count_what_is_left_out_neither_above_nor_beside() -> None:
    scores = np.array([[5, 3, 3, 9, 3, 1], [1, 1, 1, 1, 1, 1]], np.float32)
    out = Csr(np.array([0, 3, 4]), np.array([3, 4, 5]))
    for ties, expected in (("half", [[2.5], [3.5]]), ("first", [[2], [1]]), ("last", [[3], [6]])):
        found = Competition(np.array([1, 0]), Csr(np.array([0, 2, 2]), np.array([3, 4])), None, ties)  # pyright: ignore[reportArgumentType]
        assert found.ranks(scores).tolist() == expected
    found = Competition(np.array([1, 0]), Csr(out.offsets, np.array([3, 4, 5, 5])), None, "half")
    assert found.ranks(scores).tolist() == [[2.5], [3.0]]


def test_ranks_among_draws_count_each_as_often_as_it_is_drawn_and_never_the_target() -> None:
    scores = np.array([[5, 3, 3, 9, 3, 1]], np.float32)
    drawn = np.array([[[0, 0, 1, 2, -1], [5, 5, 5, 5, 3]]])
    found = Competition(np.array([1]), Csr(np.array([0, 0]), np.zeros(0, int)), drawn, "half")
    assert found.ranks(scores).tolist() == [[3.5, 2.0]]
    late = Competition(np.array([4]), Csr(np.array([0, 0]), np.zeros(0, int)), np.array([[[-1, 1, 4]]]), "last")
    assert late.ranks(scores).tolist() == [[2.0]], "what is behind a list's end is no item"


def bonus(weight: float = 2.0) -> cooccurrence.Cooccurrence:
    counts = count_transitions(np.array([2, 3, 4, 2, 3, 5]), np.array([0, 0, 0, 1, 1, 1]), 7)
    return cooccurrence.Cooccurrence(counts, CooccurrenceConfig(weight))


def test_what_counting_adds_is_the_weighted_logarithm_of_its_score() -> None:
    recent = np.array([[3, 2, 0, 0, 0], [6, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    one, found = bonus(), bonus().bonus(recent)
    scores = reach(one.counts, recent)
    assert found.key.tolist() == scores.key.tolist() == [3, 4, 5]
    np.testing.assert_allclose(found.score, 2 * np.log(1 + scores.score / 0.01))
    at = one.at(found, np.array([[4, 6], [4, 4], [3, 3]]))
    assert at.dtype == np.float32
    np.testing.assert_allclose(at, [[found.score[1], 0], [0, 0], [0, 0]], rtol=1e-6)
    place = np.array([0, 0, 1, 0, 2, 3, 4], np.int32)
    lists, values = one.lists(found, place, 3)
    assert (lists.offsets.tolist(), lists.values.tolist()) == ([0, 2, 2, 2], [2, 3])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, found.score[1:], rtol=1e-6)
    assert not bonus(0.0).bonus(recent).score.any()


def test_blocks_are_smaller_where_items_were_followed_by_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bonus()
    recent = np.array([[3, 0], [3, 2], [0, 0], [4, 0], [2, 0]], np.int32)
    assert (np.diff(one.counts.offsets)[[2, 3, 4]]).tolist() == [3, 2, 0]

    def cut(size: int, entries: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(cooccurrence, "ENTRIES", entries)
        return [(part.start, part.stop) for part in one.blocks(recent, size)]

    assert cut(2, 100) == [(0, 2), (2, 4), (4, 5)]
    assert cut(5, 100) == cut(9, 100) == [(0, 5)]
    assert cut(9, 10) == [(0, 2), (2, 5)], "two queries of 5 entries each"
    assert cut(9, 15) == [(0, 3), (3, 5)]
    assert cut(9, 1) == [(0, 1), (1, 2), (2, 4), (4, 5)], "never less than one"
    assert list(one.blocks(recent[:0], 3)) == []


def test_base_scores_and_keys_that_nothing_reached() -> None:
    reached = Reached(np.array([3, 8]), np.array([0.5, 0.25]))
    assert reached.of(np.array([[3, 4], [8, 99]])).tolist() == [[0.5, 0], [0.25, 0]]
    assert NOTHING_REACHED.of(np.array([0, 1])).tolist() == [0, 0]
    base = base_scores(np.array([0.0, 9, 2, 1]), np.array([2, 3]))
    assert isinstance(base, BaseScores)
    assert (base.inside.tolist(), base.ordered.tolist()) == ([False, False, True, True], [1, 2])
    assert BaselineScores(base, lambda _: reached).reach(np.arange(1)) is reached


def test_the_smoothing_of_transitions_is_five() -> None:
    counts = count_transitions(np.array([2, 3]), np.array([0, 0]), 4)
    assert reach(counts, np.array([[2]], np.int32)).score.tolist() == [1 / 6]
    assert reach(counts, np.array([[0, 2]], np.int32), 1.0).score.tolist() == [0.25]
    far = count_transitions(np.array([2, 1, 1, 1, 1, 3, 4]), np.zeros(7, int), 5)
    assert dict(zip(far.item[far.offsets[2] : far.offsets[3]].tolist(), far.value, strict=False)) == {3: 0.2}
    assert far.total.tolist() == [0, 0, 0.2, 1, 0]
    near = count_transitions(np.array([2, 4, 3]), np.zeros(3, int), 5, steps=1)
    assert near.total.tolist() == [0, 0, 1, 0, 1]
