"""Results files say what they rest on, survive a round trip, and tables keep full and sampled ranking apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import baseline_ranks, baseline_results
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.make_results import make_results, mean_metrics, model_rows
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.ranks import Ranks, load_ranks
from mdrec_jax.evaluate.results import Results, read_results, results_file, results_name, write_results
from mdrec_jax.evaluate.table import results_tables
from tests.data.make import make_dataset
from tests.evaluate.worlds import two_domains, without_order


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("results") / "world", users=60)


@pytest.fixture(scope="module")
def results(world: Dataset) -> Results:
    return baseline_results(world, Protocol())[0]


def printed(results: list[Results], **options) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        for table in results_tables(results, **options):
            console.print(table)
    return capture.get()


def test_the_json_has_the_documented_fields(world: Dataset, results: Results) -> None:
    values = json.loads(json.dumps(results.to_json()))
    assert values["dataset"] == world.hash
    assert values["config"] is None
    assert values["protocol"]["candidates"] == "full"
    assert {"split", "seeds", "selection", "source", "counts", "rows", "slices"} <= values.keys()
    row = values["rows"][0]
    assert {"model", "domain", "users", "queries", "metrics", "interval"} == row.keys()
    assert {"hr@10", "ndcg@10", "mrr"} <= row["metrics"].keys()
    assert all(low <= row["metrics"][name] <= high for name, (low, high) in row["interval"].items())


def test_rows_are_by_domain_all_and_macro(world: Dataset, results: Results) -> None:
    rows = {(row.model, row.domain): row for row in results.rows}
    for model in ("popularity", "transitions", "transitions-local"):
        books, films, whole, macro = (rows[model, name] for name in ("books", "films", "all", "macro"))
        assert whole.queries == books.queries + films.queries
        together = books.metrics["mrr"] * books.queries + films.metrics["mrr"] * films.queries
        assert whole.metrics["mrr"] == pytest.approx(together / whole.queries)
        assert macro.metrics["mrr"] == pytest.approx((books.metrics["mrr"] + films.metrics["mrr"]) / 2)
        assert whole.users <= world.num_users


def test_slices_split_the_queries(results: Results) -> None:
    mine = [row for row in results.slices if row.model == "popularity"]
    lengths = [row.queries for row in mine if row.slice and row.slice.startswith("history")]
    warmth = [row.queries for row in mine if row.slice and row.slice.endswith("target")]
    assert sum(lengths) == sum(warmth) == next(row.queries for row in results.rows if row.domain == "all")


def test_results_and_ranks_survive_a_round_trip(world: Dataset, tmp_path: Path) -> None:
    results, ranks = baseline_results(world, parse_protocol("uniform9x3", seed=2))
    written = write_results(tmp_path / "some" / "test.json", results, {name: [one] for name, one in ranks.items()})
    assert read_results(tmp_path / "some" / "test.json") == written
    again = load_ranks(tmp_path / "some" / written.ranks["transitions"][0])
    for name, array in vars(ranks["transitions"]).items():
        np.testing.assert_array_equal(getattr(again, name), array)
    assert again.rank.shape[1] == 3


def test_sampled_rows_tell_the_spread_over_draws(world: Dataset, tmp_path: Path) -> None:
    results, ranks = baseline_results(world, parse_protocol("uniform9x4"))
    one = ranks["transitions"]
    by_draw = [question_metrics(replace(one, rank=one.rank[:, [draw]]), ["mrr"]).values[:, 0] for draw in range(4)]
    rows = {row.domain: row for row in results.rows if row.model == "transitions"}
    for number, domain in enumerate(world.manifest.domains):
        means = [values[one.domain == number].mean() for values in by_draw]
        assert rows[domain].draw_sd["mrr"] == pytest.approx(np.std(means, ddof=1))
    assert rows["all"].draw_sd["mrr"] == pytest.approx(np.std([values.mean() for values in by_draw], ddof=1))
    macro = [np.mean([values[one.domain == number].mean() for number in (0, 1)]) for values in by_draw]
    assert rows["macro"].draw_sd["mrr"] == pytest.approx(np.std(macro, ddof=1))
    write_results(tmp_path / "a.json", results)
    assert read_results(tmp_path / "a.json") == results
    assert "±" in printed([results])
    single = baseline_results(world, parse_protocol("uniform9x1"))[0]
    assert not any(row.draw_sd for row in (*single.rows, *single.slices))
    assert "±" not in printed([single])


def test_results_that_cannot_be_written_leave_the_old_ones_with_their_ranks(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test.json"
    baselines = [baseline_results(world, parse_protocol("uniform9", seed=seed)) for seed in (0, 1)]
    (first, old), (second, new) = [(one, {name: [part] for name, part in ranks.items()}) for one, ranks in baselines]
    written = write_results(file, first, old)

    def full_disk(path: Path, value: object) -> None:
        raise InputError("cannot be written", file=path)

    monkeypatch.setattr("mdrec_jax.evaluate.results.write_json", full_disk)
    with pytest.raises(InputError):
        write_results(file, second, new)
    monkeypatch.undo()
    assert read_results(file) == written
    again = load_ranks(tmp_path / read_results(file).ranks["popularity"][0])
    np.testing.assert_array_equal(again.rank, old["popularity"][0].rank)
    write_results(file, second, new)
    kept = {name for files in read_results(file).ranks.values() for name in files}
    assert {path.name for path in tmp_path.glob("*.npz")} == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a JSON file"), ("[]", "not a results file"), ('{"protocol": {}}', "not a results file")],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path / "x.json")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such results file"):
        read_results(tmp_path / "x.json")
    with pytest.raises(InputError, match="no such file of ranks"):
        load_ranks(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_text("nothing")
    with pytest.raises(InputError, match="not a file of ranks"):
        load_ranks(tmp_path / "x.npz")


def test_quick_means_equal_the_rows(world: Dataset, results: Results) -> None:
    ranks = baseline_ranks(evaluation_set(world, Protocol()))["transitions"]
    means = mean_metrics(ranks, ["ndcg@10", "mrr"], world.manifest.domains)
    rows = {row.domain: row.metrics for row in results.rows if row.model == "transitions"}
    assert means["ndcg@10"] == pytest.approx(rows["all"]["ndcg@10"])
    assert means["macro/mrr"] == pytest.approx(rows["macro"]["mrr"])
    assert means["films/mrr"] == pytest.approx(rows["films"]["mrr"])


def test_the_mean_of_seeds_is_the_mean_of_their_rows(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    baselines = baseline_ranks(eval_set)
    both = make_results(
        eval_set, {"two": [baselines["popularity"], baselines["transitions"]]}, config="abc", seeds=(0, 1)
    )
    means = [question_metrics(baselines[name], ["mrr"]).values.mean() for name in ("popularity", "transitions")]
    assert next(row for row in both.rows if row.domain == "all").metrics["mrr"] == pytest.approx(np.mean(means))
    assert (both.seeds, both.config) == ((0, 1), "abc")


def test_runs_that_were_asked_different_things_are_not_averaged(world: Dataset) -> None:
    eval_set, part = evaluation_set(world, Protocol()), evaluation_set(world, Protocol(), at_most=10)
    with pytest.raises(InputError, match="different questions"):
        make_results(
            eval_set, {"two": [baseline_ranks(eval_set)["popularity"], baseline_ranks(part)["popularity"]]}, config=None
        )


def test_a_table_shows_the_baselines_beside_the_model(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    baselines = {name: [one] for name, one in baseline_ranks(eval_set).items()}
    text = printed(
        [make_results(eval_set, {**baselines, "mine": baselines["transitions"]}, config="c0ffee", selection="mrr")]
    )
    for name in ("[popularity]", "[transitions]", "mine", "macro", "ndcg@10", "c0ffee", "chosen by mrr"):
        assert name in text
    assert text.index("[popularity]") < text.index("mine")


def test_full_and_sampled_ranking_never_share_a_table(world: Dataset, results: Results) -> None:
    sampled = baseline_results(world, parse_protocol("uniform9"))[0]
    tables = results_tables([sampled, results])
    assert len(tables) == 2
    text = printed([sampled, results])
    assert text.index("full ranking") < text.index("SAMPLED")
    assert len(results_tables([results, results])) == 1
    assert printed([results, results]).count("[popularity]") == printed([results]).count("[popularity]")


def test_slices_have_a_table_of_their_own(results: Results) -> None:
    text = printed([results], slices=True)
    assert "warm target" in text
    assert "history" in text


def test_several_targets_have_their_own_metrics(tmp_path: Path) -> None:
    results = baseline_results(without_order(tmp_path / "world"), Protocol(seen="train"))[0]
    assert {"recall@20", "ndcg@20"} <= results.rows[0].metrics.keys()
    assert results.rows[0].queries == 3
    assert "recall@20" in printed([results])


def test_queries_without_a_visible_event_are_counted(world: Dataset, results: Results, tmp_path: Path) -> None:
    rows = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("c", "2"), ("c", "3")]
    given = make_dataset(tmp_path / "world", rows, default_split="given", role=[0, 0, 2, 2, 2, 0])
    assert baseline_results(given, Protocol())[0].counts["queries without any visible event"] == 2
    assert "queries without any visible event" not in results.counts


def test_transitions_within_a_domain_are_shown_where_sequences_cross_domains(tmp_path: Path) -> None:
    apart = [(f"u{n}", f"{domain}-{(n + k) % 5}", domain) for n, domain in enumerate("abab") for k in range(4)]
    for name, rows, shown in (
        ("apart", apart, False),
        ("first", [("u0", "b-0", "b"), *apart], True),
        ("last", [*apart, ("u3", "a-0", "a")], True),
    ):
        found = baseline_results(make_dataset(tmp_path / name, rows), Protocol())[0]
        assert ("transitions-local" in {row.model for row in found.rows}) is shown, name


def test_results_hold_what_they_rest_on(world: Dataset) -> None:
    eval_set = evaluation_set(world, Protocol())
    told = {
        "config": "c", "seeds": (0, 3), "selection": "mrr", "recipe": "r", "length": {"epochs": 2.0},
    }  # fmt: skip
    ranks = {name: [one] for name, one in baseline_ranks(eval_set).items()}
    found = make_results(eval_set, ranks, metrics=("mrr",), counts={"lost": 2}, draws=50, **told)
    assert {name: getattr(found, name) for name in told} == told
    assert (found.protocol, found.dataset) == (eval_set.protocol, world.hash)
    assert (found.source, found.domains) == (world.manifest.source, world.manifest.domains)
    assert found.counts == {**eval_set.counts, "lost": 2}
    assert {row.model for row in found.rows} == {row.model for row in found.slices} == set(ranks)
    assert all(set(row.metrics) == {"mrr"} for row in (*found.rows, *found.slices))


def test_draws_of_candidates_have_a_spread_in_a_data_set_of_one_domain(tmp_path: Path) -> None:
    rows = [(f"u{user}", f"i{(user * 3 + place) % 17}") for user in range(12) for place in range(5)]
    eval_set = evaluation_set(make_dataset(tmp_path / "world", rows), parse_protocol("uniform4x3"))
    (row,), slices = model_rows("popularity", [baseline_ranks(eval_set)["popularity"]], ("one",), draws=20)
    assert row.domain == "all"
    assert set(row.draw_sd) == set(row.metrics)
    assert all(one.draw_sd for one in slices)


def test_questions_in_one_of_two_domains_have_a_mean_over_domains_too() -> None:
    number = np.arange(6)
    nothing = np.zeros(6, np.int32)
    rank = np.stack([1.0 + number, 2.0 + number], axis=1).astype(np.float32)
    ranks = Ranks(number, number, number.astype(np.int32), nothing, rank, nothing + 3, nothing > 0, nothing - 1)
    rows, _ = model_rows("popularity", [ranks], ("a", "b"), draws=20)
    assert [row.domain for row in rows] == ["a", "all", "macro"]
    assert rows[0].metrics == rows[1].metrics == rows[2].metrics
    assert rows[0].draw_sd == rows[1].draw_sd == rows[2].draw_sd != {}


def test_a_runs_results_are_named_by_split_and_protocol() -> None:
    assert results_name("test", "fixed:lists/mine") == "test-fixed-lists-mine.json"
    assert results_name("validation", "uniform9") == "validation-uniform9.json"
    assert results_name("test", "full") == "test-full.json"


def test_a_folder_without_the_results_is_told_how_to_make_them(tmp_path: Path) -> None:
    for run in (tmp_path / "several", tmp_path / "one"):
        (run / "evaluation").mkdir(parents=True)
        (run / "evaluation" / "test-full-with-seen.json").write_text("{}")
    (tmp_path / "one" / "config.json").write_text("{}")
    for name, seeds in (("several", "/seed-*"), ("one", "")):
        run = tmp_path / name
        with pytest.raises(InputError) as error:
            results_file(run, "test", "full")
        assert (error.value.found, error.value.expected) == ("test-full-with-seen", "evaluation/test-full.json")
        assert f"mdrec evaluate {run}{seeds} --split test --protocol full;" in str(error.value)
        assert results_file(run, "test", "full-with-seen") == run / "evaluation" / "test-full-with-seen.json"
    assert results_file(tmp_path / "any.json", "test", "full") == tmp_path / "any.json"
    with pytest.raises(InputError, match="no results at all"):
        results_file(tmp_path, "test", "full")
