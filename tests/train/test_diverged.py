"""A run whose model diverges ends with a message, and what it leaves is from before."""

import dataclasses
from pathlib import Path

import jax
import pytest

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_NOT_FINITE, NonFiniteError
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs import sealed
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import TrainState
from mdrec_jax.train.trained import load_run
from mdrec_jax.types import Batch
from tests.command import mdrec

SMALL = ("--model.dim", "16", "--model.layers", "1", "--batching.rows", "8", "--hardware.data", "1")


@pytest.mark.parametrize("rate", ["1e30", pytest.param("1e18", marks=pytest.mark.slow)])
def test_a_learning_rate_that_diverges_saves_nothing(
    rate: str, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = ("--train.evaluate-every", "0.01", "--logging.checkpoint-every", "1")
    run = ("train", "quickstart", "--data", small_world, "--run", tmp_path / "run", *SMALL, *often)
    for more in (("--optim.dense.learning-rate", rate, "--optim.table.learning-rate", rate), ("--resume",)):
        assert mdrec(*run, *more) == EXIT_NOT_FINITE
        assert "no checkpoint was written yet" in capsys.readouterr().err
        assert not sealed.steps(tmp_path / "run" / "checkpoints")
    assert mdrec("evaluate", tmp_path / "run") == 2
    assert "no finished checkpoint" in capsys.readouterr().err


def test_a_run_that_diverges_later_goes_on_from_before(
    small_run: RunConfig, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, folder = open_dataset(small_world), RunFolder(tmp_path / "run")
    train_step, spoilt_at = Setup.train_step, 9

    def spoiling(setup: Setup, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = train_step(setup, state, batch)
        if int(state.step) != spoilt_at:
            return state, metrics
        return dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf * 1e30, state.params)), metrics

    with monkeypatch.context() as patch:
        patch.setattr(Setup, "train_step", spoiling)
        with pytest.raises(NonFiniteError, match="the checkpoint of step 8 is kept"):
            fit(small_run, dataset, folder)
    assert load_run(folder.path).step <= 8
    fit(small_run, dataset, folder, resume=True)
    assert load_run(folder.path).step > 8
