"""`mdrec inspect RUN` and `mdrec bench`: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest

from mdrec_jax.cli.main import main
from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT, InputError
from mdrec_jax.evaluate.results import read_results
from mdrec_jax.train.evaluation import evaluate_runs, write_evaluation
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.runs.show import summarise_run
from mdrec_jax.train.trained import load_run

SMALL = ("--model.dim", "16", "--batching.rows", "8")


def test_inspect_tells_how_a_run_went(
    small_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    fit(small_run, open_dataset(small_world), folder)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    looks = [line for line in lines if line["kind"] == "validation"]
    summary = summarise_run(folder.path)
    assert summary.step == lines[-1]["step"]
    assert [step for step, _ in summary.validation] == [line["step"] for line in looks]
    assert summary.best == max(((line["step"], line["ndcg@10"]) for line in looks), key=lambda look: look[1])
    assert summary.changed["model.dim"] == 16
    assert summary.checkpoints[-1] == summary.step
    results, ranks = evaluate_runs([load_run(folder.path)])
    write_evaluation(folder, results, ranks)
    assert main(["inspect", str(folder.path)]) == 0
    out = capsys.readouterr().out
    for text in ("sasrec, seed 0", "model.dim=16", "[popularity]", f"step {summary.step:,}", "targets/s"):
        assert text in out


def test_a_trained_run_is_evaluated_with_counting(
    small_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the run that was told to count from the start: what is trained is the same."""
    folders = [RunFolder(tmp_path / name) for name in ("alone", "cooccurrence")]
    for folder, weight in zip(folders, (0.0, 2.0), strict=True):
        config = replace(small_run, cooccurrence={"weight": weight}, train={"evaluate_every": 2.0})
        fit(config, open_dataset(small_world), folder)
    alone, with_bonus = (evaluate_runs([load_run(folder.path)])[0] for folder in folders)
    given = ["evaluate", str(folders[0].path), "--cooccurrence-weight"]
    assert main([*given, "-1"]) == EXIT_BAD_INPUT
    assert "cooccurrence.weight" in capsys.readouterr().err
    assert main([*given, "2"]) == 0
    later = read_results(folders[0].evaluation / "test-full-cooccurrence-2.json")
    assert later.to_json() == with_bonus.to_json() | {"ranks": later.to_json()["ranks"]}
    assert [row.metrics for row in later.rows] != [row.metrics for row in alone.rows]
    assert {"sasrec", "sasrec + cooccurrence 2"} & {row.model for row in later.rows} == {"sasrec + cooccurrence 2"}
    assert {"sasrec", "sasrec + cooccurrence 2"} & {row.model for row in alone.rows} == {"sasrec"}
    assert "sasrec + cooccurrence 2" in capsys.readouterr().out
    (name,) = later.ranks["sasrec + cooccurrence 2"]
    assert " " not in name
    assert (folders[0].evaluation / name).is_file()


def test_a_run_is_found_before_its_first_step(small_run: RunConfig, small_world: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    fit(small_run, open_dataset(small_world), folder)
    for path in (folder.metrics, folder.timing):
        path.unlink()
    summary = summarise_run(folder.path)
    assert (summary.step, summary.loss, summary.best) == (0, None, None)
    with pytest.raises(InputError, match="no run here"):
        summarise_run(tmp_path)


def test_the_flagship_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--show"]) == 0
    assert "--model.views.path-rank" in capsys.readouterr().out


def test_bench_measures_every_part(small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speeds.json"
    given = ["bench", "quickstart", "--data", str(small_world), "--rounds", "3", "--json", str(file), *SMALL]
    assert main(given) == 0
    record = json.loads(file.read_text())
    assert [one["part"] for one in record["speeds"]] == ["input", "step", "train", "evaluate"]
    targets = {one["part"]: one["per_second"] * one["milliseconds"] / 1e3 for one in record["speeds"]}
    assert targets["evaluate"] == pytest.approx(open_dataset(small_world).manifest.counts.roles["test"])
    assert 0 < targets["step"] <= 3 * 8 * 128
    assert all(one["peak_mib"] > 0 for one in record["speeds"])
    assert "users" in capsys.readouterr().out


def test_bench_refuses_what_it_does_not_know(small_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--part", "everything", "--data", str(small_world)]) == EXIT_BAD_INPUT
    assert main(["bench", "--part", "step", "--data", str(small_world), "--rounds", "0"]) == EXIT_BAD_INPUT
    assert "--rounds" in capsys.readouterr().err
    assert main(["bench", "kernels", "--only", "sorting"]) == EXIT_BAD_INPUT
    assert "packed_attention" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--model.no-such-field", "3"), "--model.no-such-field"),
        (("--batching.rows", "0"), "batching.rows"),
        (("--model.heads", "3"), "model.heads"),
        (("--optim.schedule.kind", "steep"), "steep"),
        (("--model.dim", "wide"), "--model.dim"),
    ],
)
def test_a_field_that_does_not_exist_or_is_out_of_range_stops_before_work(
    given: tuple[str, str], said: str, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "quickstart", "--data", str(small_world), "--run", str(run), *given]) == EXIT_BAD_INPUT
    assert said in capsys.readouterr().err
    assert not run.exists()


def test_a_preset_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "no-such-preset"]) == EXIT_BAD_INPUT
    assert "quickstart" in capsys.readouterr().err


def test_a_published_protocol_is_validated_by(small_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    few = ("--train.epochs", "0.5", "--train.protocol", "uniform20", "--logging.no-tensorboard", *SMALL)
    assert main(["train", "quickstart", "--data", str(small_world), "--run", str(run), *few]) == 0
    results = {one.protocol.name: one for one in summarise_run(run).results}
    assert set(results) == {"uniform20"}
    best = summarise_run(run).best
    scorer = load_run(run)
    again, _ = evaluate_runs([scorer], "uniform20", "validation")
    row = next(row for row in again.rows if row.model == "sasrec" and row.domain == "all")
    assert best is not None
    assert best[1] == pytest.approx(row.metrics["ndcg@10"])
