"""An ablation's runs are ordinary ones, made once, and its table says what their results say."""

import json
from pathlib import Path

import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT, ConfigError, InputError
from mdrec_jax.evaluate.compare import compare
from mdrec_jax.evaluate.looks_at_test import LOOKS, read_looks
from mdrec_jax.experiments import runs
from mdrec_jax.experiments.ablation import Variant, ablate, chosen, to_json
from mdrec_jax.experiments.costs import Cost
from mdrec_jax.experiments.runs import ranks_of
from mdrec_jax.experiments.tables import ablation_table, markdown
from tests.command import mdrec


def never(*given: object, **named: object) -> None:
    raise AssertionError("trained again")


def test_runs_are_made_once_and_the_table_holds_their_results(
    short_run: RunConfig, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(small_world)
    none = Cost(1, 2, 3e9)
    rows = [Variant("full", short_run, none), Variant("all off", replace(short_run, model={"dim": 4}), none, "less")]
    with monkeypatch.context() as patch:  # stopped while the second run trains
        real, calls = runs.fit, []

        def stops(*given: object, **named: object) -> None:
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            real(*given, **named)

        patch.setattr(runs, "fit", stops)
        with pytest.raises(KeyboardInterrupt):
            ablate(rows, dataset, tmp_path, (0,))
    before = (tmp_path / "full" / "seed-0" / "evaluation" / "validation-full.json").stat().st_mtime_ns
    (table,) = ablate(rows, dataset, tmp_path, (0,))
    assert (tmp_path / "full" / "seed-0" / "evaluation" / "validation-full.json").stat().st_mtime_ns == before
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", never)
        assert ablate(rows, dataset, tmp_path, (0,)) == [table]
    assert not list(tmp_path.rglob(LOOKS))

    full, less = table.measured
    assert (full.steps, full.differences) == (4, ())
    paths = [tmp_path / folder / "seed-0" for folder in ("all-off", "full")]
    ranks = [ranks_of([path], "validation", "full")[1] for path in paths]
    assert less.differences == tuple(compare(*ranks, ("ndcg@10", "hr@10", "mrr"), domains=dataset.manifest.domains))
    by_name = {row["variant"]: row for row in to_json([table])["tables"][0]["rows"]}
    written = json.loads((paths[0] / "evaluation" / "validation-full.json").read_text())
    shown = by_name["all off"]["validation"][-1]["metrics"]
    assert shown["mrr"] == pytest.approx(written["rows"][-1]["metrics"]["mrr"])
    text = markdown(ablation_table(table))
    gap = next(one for one in less.differences if (one.where, one.metric) == ("macro", "ndcg@10"))
    assert f"| {gap.difference:+.4f}".replace("0.", ".") in text
    assert "[transitions]" in text
    assert "one seed: no claim" in text
    assert "*" not in text.replace("**", "")

    (both,) = ablate(rows[:1], dataset, tmp_path, (0,), ("validation", "test"), by="a test")
    assert "test macro/ndcg@10" in markdown(ablation_table(both))
    (look,) = read_looks(tmp_path / "full" / "seed-0")
    assert (look["by"], look["protocol"]) == ("a test", "full")

    with pytest.raises(InputError, match=r"train\.steps"):
        ablate([replace_config(row, steps=5) for row in rows], dataset, tmp_path, (0,))


def replace_config(row: Variant, **train: object) -> Variant:
    return Variant(row.name, replace(row.config, train=train), row.cost)


def test_what_cannot_be_ablated_is_refused(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert mdrec("ablate", "quickstart", "--data", small_world, "--out", out) == EXIT_BAD_INPUT
    assert "every part is off already" in capsys.readouterr().err
    assert mdrec("ablate", "mdrec", "--data", small_world, "--out", out, "--seeds", "a") == EXIT_BAD_INPUT
    assert not out.exists()


def test_only_the_rows_asked_for(short_run: RunConfig) -> None:
    rows = [
        Variant(name, short_run, Cost(1, 2, 3e9)) for name in ("full", "all off", "all off, longer", "all off, wider")
    ]
    assert [row.name for row in chosen(rows, ["all-off-longer"])] == ["full", "all off, longer"]
    with pytest.raises(ConfigError, match="all-off, all-off-longer, all-off-wider"):
        chosen(rows, ["deeper"])


@pytest.mark.slow
def test_the_command_from_a_preset_to_a_table(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--train.epochs", "0", "--train.steps", "3", "--model.dim", "16", "--logging.no-tensorboard")
    given = ("ablate", "mdrec", "--smoke", "--data", small_world, "--out", tmp_path, "--seeds", "0,1", *few)
    assert mdrec(*given) == 0
    record = json.loads((tmp_path / "ablation.json").read_text())
    (table,) = record["tables"]
    by_name = {row["variant"]: row for row in table["rows"]}
    assert list(by_name)[:4] == ["full", "without domain paths", "without projectors", "all off"]
    full = by_name["full"]
    deep, long = by_name["all off, deeper"], by_name["all off, longer"]
    assert deep["flops_a_step"] >= 0.99 * full["flops_a_step"]
    assert long["flops_a_step"] * long["steps"] == pytest.approx(full["flops_a_step"] * full["steps"], rel=0.2)
    assert by_name["all off, wider"]["dense"] == pytest.approx(full["dense"], rel=0.05)
    assert all(len(row["runs"]) == 2 for row in table["rows"])
    shown = capsys.readouterr().out
    assert mdrec(*given) == 0
    again = capsys.readouterr()
    assert again.out == shown
    assert again.err.count("done before") == 2 * len(by_name)
