"""A run that stopped before its end is no seed of a mean; one whose patience ran out is."""

import json
import shutil
from pathlib import Path

import pytest

from mdrec_jax.cli.main import main
from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT
from mdrec_jax.train.fit import fit
from mdrec_jax.train.loop import Interrupted, Loop
from mdrec_jax.train.runs.checkpoint import Progress
from mdrec_jax.train.runs.comparable import ending
from mdrec_jax.train.runs.run_folder import RunFolder


@pytest.fixture
def runs(small_run: RunConfig, small_world: Path, tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """Whole ones of two seeds, and one that was stopped in its third validation."""
    paths = {name: tmp_path / name for name in ("whole", "other", "half")}
    dataset = open_dataset(small_world)
    fit(small_run, dataset, RunFolder(paths["whole"]))
    fit(replace(small_run, seed=1), dataset, RunFolder(paths["other"]))
    validate = Loop._validate

    def stopped(self: Loop, step: int, state: object, progress: Progress) -> None:
        if step > 2 * self.plan.evaluate_every:
            self.checkpoints.wait()
            raise Interrupted("stopped")
        validate(self, step, state, progress)

    monkeypatch.setattr(Loop, "_validate", stopped)
    with pytest.raises(Interrupted):
        fit(replace(small_run, seed=2), dataset, RunFolder(paths["half"]))
    monkeypatch.undo()
    return paths


def test_a_run_that_stopped_halfway_is_no_seed_of_a_mean(
    runs: dict[str, Path], small_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, other, half = (str(path) for path in runs.values())
    end = ending(RunFolder(runs["half"]))
    assert (end.whole, end.patience) == (False, False)
    assert 0 < end.done < end.planned == ending(RunFolder(runs["whole"])).done
    far = f"step {end.done} of {end.planned}"
    assert main(["evaluate", whole, half, "--split", "validation"]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert half in err
    assert far in err
    assert f"mdrec train --resume --run {half}" in err
    for path in (whole, other, half):
        assert main(["evaluate", path, "--split", "validation"]) == 0
        err = capsys.readouterr().err
        assert ("did not come to its end" in err) == (path == half)
    compared = ["compare", "--split", "validation", whole]
    assert main([*compared, other, "--with", whole, other]) == 0
    assert main([*compared, half]) == EXIT_BAD_INPUT
    assert main([*compared, "--with", half, half]) == EXIT_BAD_INPUT
    assert far in capsys.readouterr().err
    assert main(["inspect", half]) == 0
    assert f"of {end.planned}, checkpoints" in capsys.readouterr().out
    assert main(["train", "--resume", "--run", half]) == 0
    assert main(["evaluate", whole, half, "--split", "validation"]) == 0
    assert ending(RunFolder(runs["half"])).whole


def test_longer_schedules_and_patience(
    small_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, folder = open_dataset(small_world), RunFolder(tmp_path / "run")
    fit(small_run, dataset, folder)
    # As a longer run that was resumed and killed at once leaves it: the configuration says more than was done.
    record = json.loads(folder.config.read_text())
    record["config"]["train"]["epochs"] *= 2
    record["steps"] *= 2
    folder.config.write_text(json.dumps(record))
    assert not ending(folder).whole
    early = RunFolder(tmp_path / "early")
    fit(replace(small_run, train={"patience": 1, "epochs": 40.0, "evaluate_every": 0.1}), dataset, early)
    end = ending(early)
    assert end.whole
    assert end.done < end.planned
    second = tmp_path / "second"
    shutil.copytree(early.path, second)
    record = json.loads((second / "config.json").read_text())
    record["config"]["seed"] = 5
    (second / "config.json").write_text(json.dumps(record))
    assert main(["evaluate", str(early.path), str(second), "--split", "validation"]) == 0
    assert f"step {end.done} of {end.planned}, where its patience ran out" in capsys.readouterr().err
