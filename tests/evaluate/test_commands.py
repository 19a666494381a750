"""`mdrec floors` and `mdrec compare`: what they print and write, and what they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdrec_jax.data.dataset import Dataset
from tests.command import mdrec
from tests.evaluate.worlds import two_domains


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("commands") / "world")


def test_floors_prints_a_table(world: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("floors", world.path, "--slices") == 0
    out = capsys.readouterr().out
    for text in ("[popularity]", "[transitions]", "macro", "ndcg@10", "warm target", "full ranking"):
        assert text in out


def test_floors_writes_results_and_ranks(world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "floors.json"
    assert mdrec("floors", world.path, "--protocol", "uniform9", "--split", "validation", "--json", out) == 0
    values = json.loads(out.read_text())
    assert (values["protocol"]["negatives"], values["split"]) == (9, "validation")
    for names in values["ranks"].values():
        assert all((out.parent / name).is_file() for name in names)
    assert mdrec("compare", out, "--model", "transitions", "--with-model", "popularity", "--metrics", "mrr") == 0
    printed = capsys.readouterr().out
    assert "first: transitions" in printed
    assert "SAMPLED" in printed


def test_json_stands_alone_on_standard_output(
    world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mdrec("floors", world.path, "--metrics", "ndcg@10,mrr", "--json", "-") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rows"][0]["metrics"].keys() == {"ndcg@10", "mrr"}
    mdrec("floors", world.path, "--json", tmp_path / "a.json")
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
    ],
)
def test_what_cannot_be_asked_is_refused(
    world: Dataset, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert mdrec("floors", world.path, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("floors", tmp_path) == 2
    assert mdrec("compare", tmp_path / "none.json") == 2
    assert "no such results file" in capsys.readouterr().err


def test_floors_and_compare_start_without_jax(world: Dataset) -> None:
    code = (
        "import argparse, sys; from mdrec_jax.cli import compare, floors; p = argparse.ArgumentParser();"
        "s = p.add_subparsers(); floors.add_parser(s); compare.add_parser(s);"
        f"a = p.parse_args(['floors', {str(world.path)!r}]); a.run(a); sys.exit('jax' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
