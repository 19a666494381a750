"""Baselines whose settings validation chooses: what they may see, what they choose, and how they rank."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.baselines import item_item, tuning
from mdrec_jax.evaluate.baselines.candidate_items import CandidateItems, Competition, competition
from mdrec_jax.evaluate.baselines.run import baseline_ranks, baselines_file, stored_ranks
from mdrec_jax.evaluate.baselines.tuned_baselines import Method, described, methods_for
from mdrec_jax.evaluate.baselines.tuning import Tuned, tuned_ranks
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.results import TUNED
from tests.command import mdrec
from tests.evaluate.worlds import two_domains, without_order


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("tuning") / "world")


@pytest.fixture(scope="module")
def tuned(world: Dataset) -> Tuned:
    return tuned_ranks(evaluation_set(world, Protocol()))


def some_of(eval_set: EvaluationSet, domain: int) -> np.ndarray:
    return np.flatnonzero(eval_set.queries.domain == domain)


@pytest.mark.parametrize("name", ["full", "full-with-seen", "uniform9x2"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranks_by_scores_are_the_sparse_ranks_of_the_same_scores(world: Dataset, name: str, split: str) -> None:
    eval_set = evaluation_set(world, parse_protocol(name, source="fkcb", split=split))  # pyright: ignore[reportArgumentType]
    expected = baseline_ranks(eval_set)["popularity"].rank
    for domain in eval_set.domains():
        some, candidates = some_of(eval_set, domain), CandidateItems.of(eval_set, domain)
        popular = np.tile(candidates.popularity.astype(np.float32), (len(some), 1))
        found = competition(eval_set, some, candidates.place).ranks(popular)
        np.testing.assert_array_equal(found, expected[some])


def test_published_settings_give_the_published_transitions(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    for domain in eval_set.domains():
        some, candidates = some_of(eval_set, domain), CandidateItems.of(eval_set, domain)
        method = next(one for one in methods_for(candidates) if one.name == "transitions-tuned")
        scores = method.scores(eval_set, some, {"steps": 5, "smoothing": 5.0, "history": 5})
        found = competition(eval_set, some, candidates.place).ranks(scores)[:, 0]
        assert (found == baseline_ranks(eval_set)["transitions"].rank[some, 0]).mean() > 0.9, "but for ties"


def test_every_method_has_a_row_and_chosen_settings(world: Dataset, tuned: Tuned) -> None:
    assert set(tuned.ranks) == set(TUNED) == set(tuned.settings)
    for name, by_domain in tuned.settings.items():
        assert set(by_domain) == set(world.manifest.domains)
        for domain in world.manifest.domains:
            candidates = CandidateItems.of(evaluation_set(world, Protocol()), world.domain_index(domain))
            grids = {method.name: [*method.grid, *method.after] for method in methods_for(candidates)}
            tried = {key: {one[key] for one in grids.get(name, []) if key in one} for key in by_domain[domain]}
            assert name == "linear-blend" or all(value in tried[key] for key, value in by_domain[domain].items())


def test_settings_are_those_that_rank_validation_best(world: Dataset, tuned: Tuned) -> None:
    eval_set = evaluation_set(world, Protocol(split="validation"))
    for domain, name in enumerate(world.manifest.domains):
        some, candidates = some_of(eval_set, domain), CandidateItems.of(eval_set, domain)
        for method in methods_for(candidates):

            def best(tried: list[dict[str, float]], method: Method = method) -> dict[str, float]:
                scores = (method.scores(eval_set, some, settings) for settings in tried)  # noqa: B023
                ranks = [competition(eval_set, some, candidates.place).ranks(one)[:, 0] for one in scores]  # noqa: B023
                return tried[int(np.argmax([np.where(r <= 10, 1 / np.log2(1 + r), 0).mean() for r in ranks]))]

            chosen = best(list(method.grid))
            assert tuned.settings[method.name][name] == best([chosen, *({**chosen, **one} for one in method.after)])


def test_a_choice_at_the_end_of_its_grid_is_told_where_the_grid_could_go_on() -> None:
    grid = tuple({"l2": l2, "decay": decay} for l2 in (100.0, 0.0, 400.0) for decay in (2.0, 1.0))
    assert described({"l2": 400.0, "decay": 1.0}, grid) == "l2 400 (the most tried), decay 1"
    assert described({"l2": 100.0, "decay": 2.0}, grid) == "l2 100, decay 2"
    assert described({"l2": 0.0, "decay": 2.0}, grid) == "l2 0, decay 2", "nothing is less"
    assert described({"l2": 100.0}, ({"l2": 100.0}, {"l2": 400.0})) == "l2 100 (the least tried)"


def test_test_items_have_no_part_in_what_is_chosen_or_scored(world: Dataset, tuned: Tuned) -> None:
    item, test = np.array(world.item), np.asarray(world.role) == 2
    for domain, items in enumerate(world.domain_items):
        mine = test & (np.asarray(world.domain) == domain)
        item[mine] = items[(np.searchsorted(items, item[mine]) + 3) % len(items)]
    other = replace(world, item=item)
    assert tuned_ranks(evaluation_set(other, Protocol())).settings == tuned.settings
    for domain in (0, 1):
        for old, new in zip(
            *(methods_for(CandidateItems.of(evaluation_set(one, Protocol()), domain)) for one in (world, other)),
            strict=True,
        ):
            some = some_of(evaluation_set(world, Protocol()), domain)
            scores = [m.scores(evaluation_set(o, Protocol()), some, m.grid[0]) for m, o in ((old, world), (new, other))]
            np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("visible", [False, True])
def test_date_popularity_counts_training_events_before_its_moment(world: Dataset, visible: bool) -> None:
    eval_set = evaluation_set(world, Protocol(query_time_visible=visible))
    some, candidates = some_of(eval_set, 0), CandidateItems.of(eval_set, 0)
    method = next(one for one in methods_for(candidates) if one.name == "date-popularity")
    found = method.scores(eval_set, some, {"half_life_days": 2.0})
    time, role, item = (np.asarray(getattr(world, name)) for name in ("time", "role", "item"))
    for row, query in enumerate(some):
        places = eval_set.queries.history_places(np.array([query]))[1]
        moment = eval_set.queries.time[query] if visible else time[places[-1]]
        before = (role == 0) & (time < moment if visible else time <= moment)
        weight = 0.5 ** ((moment - time[before]) / (2 * 24 * 3600))
        expected = np.bincount(item[before], weight, world.num_items)[candidates.items]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_large_catalogue_keeps_its_most_frequent_items_and_counts_the_rest(
    world: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_item, "LARGEST", 12)
    eval_set = evaluation_set(world, Protocol())
    candidates = CandidateItems.of(eval_set, 0)
    kept, gone = candidates.popularity[candidates.known], np.delete(candidates.popularity, candidates.known)
    assert len(kept) == 12
    assert kept.min() >= gone.max()
    assert candidates.left_out == (gone > 0).sum()
    assert sum(tuned_ranks(eval_set).counts.values()) == sum(
        CandidateItems.of(eval_set, domain).left_out for domain in (0, 1)
    )


def test_without_an_order_or_validation_what_is_left_takes_the_first_settings(tmp_path: Path) -> None:
    found = tuned_ranks(evaluation_set(without_order(tmp_path / "world"), Protocol(seen="train")))
    assert set(found.ranks) == {"itemknn", "ease", "linear-blend"}
    assert any("without validation" in reason for reason in found.counts)


def test_the_command_leaves_its_rows_where_evaluations_find_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = two_domains(tmp_path / "world")
    eval_set = evaluation_set(world, Protocol())
    assert stored_ranks(eval_set) == {}
    assert mdrec("baselines", world.path, "--split", "test") == 0
    told = capsys.readouterr()
    assert "[linear-blend]" in told.out
    assert "ease: l2" in told.err
    assert baselines_file(world, Protocol()).is_file()
    found = stored_ranks(eval_set)
    assert set(found) == set(TUNED)
    assert stored_ranks(evaluation_set(world, parse_protocol("uniform5"))) == {}
    assert stored_ranks(evaluation_set(world, Protocol(query_time_visible=True))) == {}
    assert stored_ranks(evaluation_set(world, Protocol(), at_most=7)) == {}
    assert (
        stored_ranks(evaluation_set(replace(world, manifest=replace(world.manifest, hash="0" * 64)), Protocol())) == {}
    )


def test_fixed_candidates_are_no_reason_to_look_at_test(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are listed for test queries alone: settings are then chosen by full ranking of validation."""
    eval_set, file, used = evaluation_set(world, Protocol()), tmp_path / "listed.parquet", []
    lists = {
        "sequence": eval_set.queries.sequence,
        "domain": [world.manifest.domains[d] for d in eval_set.queries.domain],
    }
    items = [[int(item) for item in world.domain_items[domain][:5]] for domain in eval_set.queries.domain]
    pl.DataFrame(lists | {"negatives": items}).write_parquet(file)
    fixed = replace(parse_protocol(f"fixed:{file}"), universe="all", ties="last")
    validation = Protocol(split="validation", universe="all", ties="last")
    monkeypatch.setattr(
        tuning,
        "evaluation_set",
        lambda dataset, protocol: used.append(protocol) or evaluation_set(dataset, protocol),
    )
    found = tuned_ranks(evaluation_set(world, fixed))
    assert used == [validation]
    assert found.settings == tuned_ranks(evaluation_set(world, replace(validation, split="test"))).settings


@pytest.mark.parametrize(("limit", "number", "read"), [("QUERIES", 7, 7), ("HELD", 1, 1)])
def test_settings_are_chosen_by_the_same_few_queries_where_there_are_many(
    limit: str, number: int, read: int, world: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def told(eval_set: EvaluationSet, some: np.ndarray, place: np.ndarray) -> Competition:
        if eval_set.protocol.split == "validation":
            seen.append(some.tolist())
        return competition(eval_set, some, place)

    monkeypatch.setattr(tuning, limit, number)
    monkeypatch.setattr(tuning, "competition", told)
    one, again = (tuned_ranks(evaluation_set(world, Protocol())).settings for _ in range(2))
    assert [len(set(some)) for some in seen] == [read] * 4, "of both domains, twice"
    assert seen[:2] == seen[2:]
    assert one == again


def test_settings_are_compared_by_ndcg_of_the_first_ten() -> None:
    ranks = [np.array([[1.0], [10.0], [11.0]]), np.array([[2.5]])]
    rivals = [SimpleNamespace(ranks=lambda scores, one=one: one) for one in ranks]
    expected = (1 + 1 / np.log2(11) + 0 + 1 / np.log2(3.5)) / 4
    assert tuning._ndcg(rivals, [np.zeros(0)] * 2) == pytest.approx(expected)  # pyright: ignore[reportArgumentType]
