"""`mdrec baselines` and `mdrec compare`: what they print and write, and what they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.looks_at_test import read_looks
from tests.command import mdrec
from tests.evaluate.worlds import two_domains


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("commands") / "world")


def test_baselines_prints_a_table(world: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("baselines", world.path, "--slices") == 0
    out = capsys.readouterr().out
    for text in ("[popularity]", "[transitions]", "macro", "ndcg@10", "warm target", "full ranking"):
        assert text in out


def test_baselines_writes_results_and_ranks(world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "baselines.json"
    assert mdrec("baselines", world.path, "--protocol", "uniform9", "--split", "validation", "--json", out) == 0
    values = json.loads(out.read_text())
    assert (values["protocol"]["negatives"], values["split"]) == (9, "validation")
    for names in values["ranks"].values():
        assert all((out.parent / name).is_file() for name in names)
    assert mdrec("compare", out, "--model", "transitions", "--with-model", "popularity", "--metrics", "mrr") == 0
    printed = capsys.readouterr().out
    assert "first: transitions" in printed
    assert "SAMPLED" in printed


def test_validation_is_ranked_unless_test_is_asked_for_and_each_look_at_test_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_domains(tmp_path / "world").path
    assert mdrec("baselines", path, "--protocol", "uniform9") == 0
    assert json.loads((path / "baselines" / "validation-uniform9.json").read_text())["split"] == "validation"
    assert read_looks(path / "baselines") == []
    assert "look number" not in capsys.readouterr().err
    for number, more in enumerate(((), ("--json", str(tmp_path / "elsewhere.json")), ("--json", "-")), 1):
        assert mdrec("baselines", path, "--split", "test", *more) == 0
        assert f"look number {number} at test" in capsys.readouterr().err
    first, second, _ = read_looks(path / "baselines")
    assert (first["by"], first["what"]) == (f"mdrec baselines {path} --split test", "baselines")
    rows = json.loads((tmp_path / "elsewhere.json").read_text())["rows"]
    by_hand = {row["model"]: row["metrics"]["mrr"] for row in rows if row["domain"] == "macro"}
    assert {name: figures["macro"]["mrr"] for name, figures in second["models"].items()} == by_hand
    assert mdrec("inspect", path) == 0
    assert "looks at test: 3" in capsys.readouterr().out

    monkeypatch.setattr("mdrec_jax.evaluate.looks_at_test.os.access", lambda *_: False)
    assert mdrec("baselines", path, "--split", "test", "--json", tmp_path / "a.json") == 2
    assert "could not be recorded" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
    assert mdrec("baselines", path, "--protocol", "uniform9", "--json", tmp_path / "a.json") == 0


def test_json_stands_alone_on_standard_output(
    world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mdrec("baselines", world.path, "--metrics", "ndcg@10,mrr", "--json", "-") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rows"][0]["metrics"].keys() == {"ndcg@10", "mrr"}
    mdrec("baselines", world.path, "--json", tmp_path / "a.json")
    capsys.readouterr()
    assert (
        mdrec("compare", tmp_path / "a.json", "--model", "transitions", "--with-model", "popularity", "--json", "-")
        == 0
    )
    assert {one["metric"] for one in json.loads(capsys.readouterr().out)["differences"]} == {"hr@10", "ndcg@10", "mrr"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "popular99"], "unknown protocol"),
        (["--protocol", "uniform500"], "too few items"),
        (["--protocol", "fixed:none"], "no such file of candidates"),
        (["--metrics", "auc"], "unknown metric"),
        (["--seed", "-1"], "seed"),
        (["--json", "."], "is a folder"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    world: Dataset, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert mdrec("baselines", world.path, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("baselines", tmp_path) == 2
    assert mdrec("compare", tmp_path / "none.json") == 2
    assert "no such results file" in capsys.readouterr().err
    assert mdrec("compare", tmp_path) == 2
    assert "the folder holds no such results" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert mdrec("baselines", tmp_path / "file") == 2
    assert "file: is not a folder" in capsys.readouterr().err


def test_run_folders_are_compared_by_the_results_in_them(
    world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        file = tmp_path / name / "evaluation" / "test-uniform9x30.json"
        assert mdrec("baselines", world.path, "--protocol", "uniform9", "--split", "test", "--json", file) == 0
    models = ("--model", "transitions", "--with-model", "popularity", "--metrics", "mrr")
    given = ("compare", tmp_path / "a", "--with", tmp_path / "b" / "evaluation" / "test-uniform9x30.json", *models)
    assert mdrec(*given, "--protocol", "uniform9") == 0
    capsys.readouterr()
    assert mdrec(*given) == 2
    err = capsys.readouterr().err
    assert "found:    test-uniform9x30" in err
    assert "--split test --protocol full" in err
    assert mdrec("compare", tmp_path / "a", "--metrics", "auc") == 2
    assert "unknown metric" in capsys.readouterr().err


def test_a_comparison_of_nothing_is_refused(world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mdrec("baselines", world.path, "--json", tmp_path / "a.json")
    capsys.readouterr()
    models = ("--model", "transitions", "--with-model", "popularity")
    assert mdrec("compare", tmp_path / "a.json", *models, "--metrics", ",") == 2
    assert "'--metrics': nothing to compare" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(
    world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("years of work")
    assert mdrec("baselines", world.path, "--json", tmp_path / "file" / "a.json") == 2
    captured = capsys.readouterr()
    assert "a.json: cannot be written" in captured.err
    assert "found:    a file: " in captured.err
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_results(world: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert mdrec("baselines", world.path, "--json", file) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = (
        "import resource, sys; from mdrec_jax.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); sys.exit(main(sys.argv[1:]))"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    command = [
        sys.executable,
        "-c",
        code,
        "baselines",
        str(world.path),
        "--protocol",
        "uniform9x1",
        "--json",
        str(file),
    ]
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "a.json: cannot be written" in ended.stderr
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()


def test_what_the_system_refuses_is_told_in_one_message(
    world: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def locked_away(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "secret.csv")

    monkeypatch.setattr("mdrec_jax.data.dataset.open_dataset", locked_away)
    assert mdrec("baselines", world.path) == 2
    assert capsys.readouterr().err == "mdrec: secret.csv: Permission denied\n"


def test_baselines_and_compare_start_without_jax(world: Dataset) -> None:
    code = (
        "import argparse, sys; from mdrec_jax.cli import compare, baselines; p = argparse.ArgumentParser();"
        "s = p.add_subparsers(); baselines.add_parser(s); compare.add_parser(s);"
        f"a = p.parse_args(['baselines', {str(world.path)!r}]); a.command_line = ''; a.run(a);"
        "sys.exit('jax' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
