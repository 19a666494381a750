"""A resumed run says what changed, in its folder too; runs that start at once take folders of their own."""

import json
import threading
from argparse import Namespace
from pathlib import Path

import pytest

from mdrec_jax.cli.train import _folder
from mdrec_jax.config import RunConfig, read_config, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT
from mdrec_jax.train.fit import fit, resume_lines
from mdrec_jax.train.runs.run_folder import RunFolder
from tests.command import mdrec


def test_every_resume_is_recorded_and_the_configuration_is_the_one_that_holds(
    small_run: RunConfig, small_world: Path, tmp_path: Path
) -> None:
    folder, dataset = RunFolder(tmp_path / "run"), open_dataset(small_world)
    fit(replace(small_run, train={"epochs": 0.5}), dataset, folder)
    assert "resumes" not in json.loads(folder.config.read_text())
    ends = []
    for epochs in (1.0, 1.0, 1.5):
        ends.append(json.loads(folder.metrics.read_text().splitlines()[-1])["step"])
        fit(replace(small_run, train={"epochs": epochs}), dataset, folder, resume=True)
        assert read_config(folder.config).train.epochs == epochs
    resumes = json.loads(folder.config.read_text())["resumes"]
    assert [one["step"] for one in resumes] == ends
    assert [one["changed"].get("config.train.epochs") for one in resumes] == [[0.5, 1.0], None, [1.0, 1.5]]
    assert all(one["time"].startswith("20") for one in resumes)


def test_other_devices_are_said_not_to_be_bit_equal() -> None:
    epochs = {"config.train.epochs": (1.0, 2.0), "config.logging.every": (20, 5), "dataset.path": ("a", "b")}
    assert not any("bit-equal" in line for line in resume_lines(epochs))
    assert len(resume_lines(epochs)) == 3
    for name, values in (
        ("devices.number", (1, 2)),
        ("devices.kind", ("cpu", "TPU v5 lite")),
        ("versions.jax", ("0.11.0", "0.12.0")),
    ):
        told = resume_lines({**epochs, name: values})
        assert told[-2] == f"resuming with another {name}: {values[0]} -> {values[1]}"
        assert "not be bit-equal" in told[-1]


def test_runs_that_start_at_once_take_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken: list[str] = []
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        with _folder(Namespace(run_folder=None, preset="quickstart")) as folder:
            (folder / "config.json").write_text("{}")
            taken.append(folder.name)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"quickstart-{number}" for number in range(1, 9)]


def test_a_folder_that_nothing_was_written_into_goes_again(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mdrec("train", "quickstart", "--data", small_world, "--train.protocol", "fixed:none") == EXIT_BAD_INPUT
    assert not (tmp_path / "runs").exists()
