"""What a comparison says: which side, how sure, of which files, and what it refuses; on figures made up for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.csr import Csr
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate import compare as comparing
from mdrec_jax.evaluate.candidates import FixedCandidates
from mdrec_jax.evaluate.compare import Difference, check_comparable, compare, load_runs, verdict
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results, Row, read_results, write_results

EMPTY = Results(Protocol(), "d" * 64, "c" * 64, (), recipe="r", length={"epochs": 2.0})


def ranks_of(*rank: float, questions: int = 0) -> Ranks:
    """A user a question, the domains in turn."""
    number = np.arange(questions, questions + len(rank))
    return Ranks(
        query=number,
        question=number,
        user=number.astype(np.int32),
        domain=(number % 2).astype(np.int32),
        rank=np.array(rank, np.float32)[:, None],
        history_length=np.array([3, 30] * len(rank), np.int32)[: len(rank)],
        days=np.full(len(rank), -1, np.int32),
        cold=np.zeros(len(rank), bool),
    )


def difference(low: float, high: float, one_seed: bool = False) -> Difference:
    return Difference("all", "mrr", 0.75, 0.5, (low, high), 0.04, 7, one_seed)


def test_a_difference_is_clear_where_its_interval_leaves_0_out_and_there_are_seeds() -> None:
    assert difference(0.1, 0.4).difference == 0.25
    assert [difference(*ends).significant for ends in ((0.1, 0.4), (-0.4, -0.1), (-0.1, 0.4), (0, 0.4), (-0.4, 0))] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert not difference(0.1, 0.4, one_seed=True).significant
    assert difference(0.1, 0.4).to_json() == {
        "where": "all", "metric": "mrr", "first": 0.75, "second": 0.5, "difference": 0.25, "interval": [0.1, 0.4],
        "p": 0.04, "queries": 7, "one_seed": False,
    }  # fmt: skip


def test_chance_is_twice_the_share_of_draws_on_the_other_side() -> None:
    assert comparing._two_sided(np.array([1.0, 2, 3, -1, np.nan]), 0.001) == 0.5
    assert comparing._two_sided(np.array([-1.0, -2, -3, 1]), 0.001) == 0.5
    assert comparing._two_sided(np.array([1.0, 2, 0, 3]), 0.001) == 0.5, "draws of 0 lie on both"
    assert comparing._two_sided(np.array([1.0, 2]), 0.25) == 0.25
    assert comparing._two_sided(np.zeros(3), 0.001) == 1
    assert comparing._two_sided(np.array([-1.0, 1, 0]), 0.001) == 1


def test_a_comparison_is_by_domain_over_all_and_as_the_domains_mean() -> None:
    first, second = ranks_of(1, 2, 1, 2, 1), ranks_of(2, 1, 4, 1, 1)
    found = compare([first], [second], ["mrr", "hr@1"], domains=("a", "b"), draws=40)
    assert [(one.where, one.metric, one.queries) for one in found] == [
        ("a", "mrr", 3), ("a", "hr@1", 3), ("b", "mrr", 2), ("b", "hr@1", 2), ("all", "mrr", 5), ("all", "hr@1", 5),
        ("macro", "mrr", 5), ("macro", "hr@1", 5),
    ]  # fmt: skip
    values = {(one.where, one.metric): (one.first, one.second) for one in found}
    a, b = ((1, 1.75 / 3), (0.5, 1.0))
    assert values["a", "mrr"] == pytest.approx(a)
    assert values["b", "mrr"] == pytest.approx(b)
    assert values["all", "mrr"] == pytest.approx((4 / 5, 3.75 / 5))
    assert values["macro", "mrr"] == pytest.approx(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2))
    assert values["macro", "hr@1"] == pytest.approx((0.5, (1 / 3 + 1) / 2))
    assert all(one.interval[0] <= one.difference <= one.interval[1] for one in found)
    assert all(one.one_seed for one in found)
    (alone,) = compare([first], [second], ["mrr"], draws=40)
    assert (alone.where, alone.queries) == ("all", 5)
    slices = {one.where for one in compare([first], [second], ["mrr"], domains=("a", "b"), slices=True, draws=40)}
    assert "warm target" in slices
    assert not slices & {"a", "b", "all", "macro"}
    assert found == compare([first], [second], ["mrr", "hr@1"], domains=("a", "b"), draws=40, seed=0)


@pytest.mark.parametrize(
    ("first", "second", "deterministic", "one_seed"),
    [
        (2, 2, (False, False), False), (1, 2, (False, False), True), (2, 1, (False, False), True),
        (2, 1, (False, True), False), (1, 2, (True, False), False), (1, 2, (False, True), True),
    ],
)  # fmt: skip
def test_a_trained_model_with_one_seed_makes_no_claim_and_a_count_needs_none(
    first: int, second: int, deterministic: tuple[bool, bool], one_seed: bool
) -> None:
    ours, theirs = [ranks_of(1, 2, 1)] * first, [ranks_of(2, 3, 2)] * second
    (found,) = compare(ours, theirs, ["mrr"], deterministic=deterministic, draws=40)
    assert found.one_seed is one_seed
    assert found.significant is not one_seed


def test_seeds_are_paired_one_by_one() -> None:
    with pytest.raises(InputError, match="seeds without a pair") as error:
        compare([ranks_of(1, 2)] * 2, [ranks_of(1, 2)] * 3, ["mrr"], paired_seeds=True)
    assert (error.value.found, error.value.expected) == ("2 and 3 seeds", "as many each")
    runs = [ranks_of(*[rank] * 6) for rank in (1, 2, 4)]
    (paired,) = compare(runs, runs, ["mrr"], paired_seeds=True, draws=40)
    (apart,) = compare(runs, runs, ["mrr"], draws=40)
    assert paired.interval == (0, 0)
    assert apart.interval[0] < 0 < apart.interval[1]
    assert paired.difference == apart.difference == 0
    better = [ranks_of(*[rank / 2] * 6) for rank in (1, 2, 4)]
    (paired,) = compare(better, runs, ["mrr"], paired_seeds=True, draws=40)
    assert paired.difference == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert paired.interval[0] < paired.difference < paired.interval[1]


def test_other_questions_or_users_are_refused() -> None:
    asked = replace(ranks_of(1, 2), question=np.array([0, 7]))
    other = [
        asked,
        ranks_of(1, 2, questions=1),
        replace(ranks_of(1, 2), user=np.array([5, 6], np.int32)),
        ranks_of(1, 2, 3),
    ]
    for one in other:
        with pytest.raises(InputError, match="different questions") as error:
            compare([ranks_of(1, 2)], [one], ["mrr"])
        assert error.value.expected == "one data set, split and protocol"
    assert error.value.found == "3 and 2 questions"


def written(path: Path, **changed: Any) -> Path:
    names = changed.pop("models", ("mine",))
    write_results(path, replace(EMPTY, **changed), {name: [ranks_of(1, 2)] for name in names})
    return path


def test_runs_of_a_mean_are_of_one_recipe_and_length_and_came_to_their_end(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a.json"), written(tmp_path / "b.json")
    name, results, found = load_runs([one, two])
    assert (name, results, len(found)) == ("mine", read_results(one), 2)
    for column, value in (("recipe", "other"), ("length", {"epochs": 3.0})):
        written(two, **{column: value})
        with pytest.raises(InputError, match="more than their seed") as error:
            load_runs([one, two])
        assert (error.value.file, error.value.column, error.value.found) == (two, column, value)
        assert error.value.expected == str(getattr(EMPTY, column))
    short = {"epochs": 2.0, "stopped_at": 7, "planned": 9}
    written(one, length=short)
    written(two, length=short)
    with pytest.raises(InputError, match="no seed of a mean") as error:
        load_runs([one, two])
    assert (error.value.file, error.value.found) == (one, "step 7 of 9")
    assert len(load_runs([one])[2]) == 1, "alone it may be short"


def test_the_only_model_is_the_one_that_is_no_baseline(tmp_path: Path) -> None:
    both = written(tmp_path / "a.json", models=("popularity", "mine"))
    assert load_runs([both])[0] == "mine"
    assert load_runs([both], "popularity")[0] == "popularity"
    assert load_runs([written(tmp_path / "b.json", models=("ease",))])[0] == "ease"
    for models, found in (
        (("mine", "yours"), "mine, yours"),
        (("ease", "popularity"), "ease, popularity"),
        ((), "no ranks at all"),
    ):
        path = written(tmp_path / "c.json", models=models)
        with pytest.raises(InputError, match="more or fewer than one model") as error:
            load_runs([path])
        assert (error.value.file, error.value.found, error.value.hint) == (path, found, "name one with --model")
    with pytest.raises(InputError, match="no ranks of this model") as error:
        load_runs([both], "yours")
    assert (error.value.file, error.value.found, error.value.expected) == (both, "yours", "popularity, mine")


def test_results_are_comparable_under_one_protocol_on_one_data_set() -> None:
    path = Path("other.json")
    check_comparable(EMPTY, replace(EMPTY, config="other"), path)
    with pytest.raises(InputError, match="different data sets") as error:
        check_comparable(EMPTY, replace(EMPTY, dataset="e"), path)
    assert (error.value.file, error.value.column) == (path, "dataset")
    assert (error.value.found, error.value.expected) == ("e", EMPTY.dataset)
    for field, value in (("split", "validation"), ("ties", "last"), ("query_time_visible", True)):
        with pytest.raises(InputError, match="different protocols") as error:
            check_comparable(EMPTY, replace(EMPTY, protocol=replace(Protocol(), **{field: value})), path)
        assert (error.value.file, error.value.column) == (path, f"protocol.{field}")
        assert (error.value.found, error.value.expected) == (value, str(getattr(Protocol(), field)))


def test_results_are_about_their_split_and_keep_what_stands_in_them(tmp_path: Path) -> None:
    assert replace(EMPTY, protocol=Protocol(split="validation")).split == "validation"
    row = Row("m", "books", 3, 4, {"mrr": 0.5}, {"mrr": (0.25, 0.75)})
    part = replace(row, slice="warm target", draw_sd={"mrr": 0.01})
    full = replace(
        EMPTY, rows=(row,), slices=(part,), seeds=(4, 2), selection="mrr", source="s", domains=("books", "films"),
        counts={"why": 2}, settings={"ease": {"books": {"l2": 1.0}}},
    )  # fmt: skip
    found = full.to_json()
    assert list(found) == [
        "protocol", "dataset", "config", "split", "seeds", "selection", "recipe", "length", "source", "domains",
        "counts", "rows", "slices", "ranks", "settings",
    ]  # fmt: skip
    assert found["rows"] == [
        {
            "model": "m",
            "domain": "books",
            "users": 3,
            "queries": 4,
            "metrics": {"mrr": 0.5},
            "interval": {"mrr": [0.25, 0.75]},
        }
    ]
    assert found["slices"] == [found["rows"][0] | {"slice": "warm target", "draw_sd": {"mrr": 0.01}}]
    assert "settings" not in EMPTY.to_json()
    written = write_results(tmp_path / "r.json", full, {"a b/c": [ranks_of(1), ranks_of(2)]})
    assert read_results(tmp_path / "r.json") == written
    names = written.ranks["a b/c"]
    assert [name.split("-")[:-1] for name in names] == [["r.a", "b", "c.0"], ["r.a", "b", "c.1"]]
    assert all(len(name.rsplit("-", 1)[1]) == len("12345678.npz") for name in names)
    (tmp_path / "old").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_results(tmp_path / "old")


def test_a_querys_list_is_that_of_its_sequence_and_domain() -> None:
    lists = Csr(np.array([0, 2, 2, 3]), np.array([7, 8, 9], np.int32))
    fixed = FixedCandidates(np.array([1, 4, 6]), lists, 3)
    found, there = fixed.find(np.array([2, 0, 0, 1, 5]), np.array([0, 1, 2, 1, 0]))
    assert there.tolist() == [True, True, False, True, False]
    assert [found.values[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)] == [
        [9], [7, 8], [], [], [],
    ]  # fmt: skip
    none = FixedCandidates(np.zeros(0, int), Csr(np.array([0]), np.zeros(0, np.int32)), 3)
    found, there = none.find(np.array([2, 0]), np.array([0, 1]))
    assert (found.offsets.tolist(), there.tolist()) == ([0, 0, 0], [False, False])


def test_a_verdict_of_one_seed_is_one_and_its_sentence_ends_with_the_interval() -> None:
    baseline, model = [ranks_of(2, 3, 2)], ranks_of(1, 2, 1)
    for seeds, one_seed in ((1, True), (2, False)):
        found = verdict({"ease": baseline, "mine": [model] * seeds}, "mine", "mrr", "test", ("all",))
        assert found is not None
        assert (found.gap.one_seed, found.gap.where, found.seeds) == (one_seed, "all", seeds)
        low, high = found.gap.interval
        alone = "; one seed, so this speaks of this run alone" if one_seed else ""
        assert found.sentence().endswith(f" {low:+.4f} to {high:+.4f}{alone})")
        assert found.above


def test_a_damaged_protocol_names_its_results_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json")
    assert read_results(path).source == EMPTY.source == ""
    path.write_text(path.read_text().replace('"negatives"', '"negative"'))
    with pytest.raises(InputError, match="unknown field of a protocol") as error:
        read_results(path)
    assert (error.value.file, error.value.column) == (str(path), "negative")
