"""Training ends with validation and a verdict; every look at test is asked for and recorded."""

import json
from pathlib import Path

import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.errors import EXIT_BAD_INPUT, InputError
from mdrec_jax.evaluate.looks_at_test import LOOKS, check_recordable, look_lines, read_looks, record_look
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.train.runs.comparable import check_alike
from tests.command import mdrec

FEW = ("--model.dim", "8", "--model.layers", "1", "--batching.rows", "8", "--train.epochs", "0.5")


def test_test_is_looked_at_when_it_is_asked_and_each_look_is_told(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert mdrec("train", "quickstart", "--data", small_world, "--run", run, *FEW) == 0
    shown = capsys.readouterr()
    assert [path.name for path in (run / "evaluation").glob("*.json")] == ["validation-full.json"]
    assert not (run / LOOKS).exists()
    assert "verdict: sasrec is not above the best baseline on validation" in shown.out
    assert "one seed, so this speaks of this run alone" in shown.out
    assert "are few to learn from" in shown.err
    assert f"mdrec evaluate {run}" in shown.err

    assert mdrec("evaluate", run, "--split", "validation") == 0
    assert read_looks(run) == []
    capsys.readouterr()
    for number, more in enumerate(((), ("--protocol", "uniform20", "--json", "-")), 1):
        assert mdrec("evaluate", run, *more) == 0
        assert f"look number {number} at test" in capsys.readouterr().err
    first, second = read_looks(run)
    assert (first["protocol"], second["protocol"]) == ("full", "uniform20x30")
    assert second["by"].startswith(f"mdrec evaluate {run} --protocol uniform20")
    written = json.loads((run / "evaluation" / "test-full.json").read_text())
    row = next(row for row in written["rows"] if (row["model"], row["domain"]) == ("sasrec", "macro"))
    assert first["figures"]["macro"]["ndcg@10"] == row["metrics"]["ndcg@10"]
    assert {first["dataset"], first["config"]} == {written["dataset"], written["config"]}
    assert mdrec("inspect", run) == 0
    assert "looks at test: 2" in capsys.readouterr().out

    monkeypatch.setattr("mdrec_jax.evaluate.looks_at_test.os.access", lambda *_: False)
    assert mdrec("evaluate", run) == EXIT_BAD_INPUT
    assert "could not be recorded" in capsys.readouterr().err
    assert len(read_looks(run)) == 2


def test_runs_of_other_lengths_data_or_one_seed_make_no_mean(small_run: RunConfig) -> None:
    def configs(**train: object) -> list[RunConfig]:
        return [small_run, replace(small_run, seed=1, train=train)]

    check_alike(configs(), ["a", "a"])
    check_alike([small_run, replace(small_run, seed=1, logging={"every": 3})], ["a", "a"])
    for field, value in (("epochs", 12.0), ("steps", 7), ("patience", 3), ("evaluate_every", 2.0)):
        with pytest.raises(InputError, match=rf"train\.{field}"):
            check_alike(configs(**{field: value}), ["a", "a"])
    with pytest.raises(InputError, match="dataset"):
        check_alike(configs(), ["a", "b"])
    with pytest.raises(InputError, match=r"model\.class"):
        check_alike([small_run, replace(small_run, seed=1, model=HstuConfig())], ["a", "a"])
    with pytest.raises(InputError, match="two runs of one seed"):
        check_alike([small_run, small_run], ["a", "a"])


def test_a_look_is_appended_whatever_stands_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_recordable(tmp_path)
    assert record_look(tmp_path, {"protocol": "full"}) == 1
    with (tmp_path / LOOKS).open("a") as file:
        file.write('{"cut sho')
    assert record_look(tmp_path, {"protocol": "uniform9"}) == 3
    looks = read_looks(tmp_path)
    assert [look.get("protocol") for look in looks] == ["full", None, "uniform9"]
    assert "a damaged line" in "\n".join(look_lines(looks))
    assert look_lines([]) == ["test was not looked at"]
    assert "look number 3 at test" in capsys.readouterr().err
