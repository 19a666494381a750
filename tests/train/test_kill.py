"""A run that is killed and resumed ends like one that never was, to the bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.trained import load_run
from tests.command import mdrec

PRESET = """
import json
from mdrec_jax.config import RunConfig, replace

def config():
    return RunConfig.from_plain(json.loads({text!r}))
"""


def command(preset: Path, world: Path, run: Path, *more: str) -> list[str]:
    return ["train", str(preset), "--data", str(world), "--run", str(run), "--hardware.data", "1", *more]


def kill_somewhere(arguments: list[str], run: Path, chance: random.Random, seconds: float) -> bool:
    """Start the run and kill it at a random moment behind its next checkpoint; whether it was still running."""
    whole = [sys.executable, "-m", "mdrec_jax", *arguments]
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = newest_checkpoint(run)
    while process.poll() is None and newest_checkpoint(run) <= before:
        time.sleep(0.005)
    time.sleep(chance.random() * seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def newest_checkpoint(run: Path) -> int:
    """The largest step of which something is there, finished or not; -1 without any."""
    names = (path.name.split(".")[0] for path in (run / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=-1)


@pytest.mark.parametrize(("kills", "epochs"), [(1, 2.0), pytest.param(10, 40.0, marks=pytest.mark.slow)])
def test_kills_leave_no_trace(
    kills: int, epochs: float, small_run: RunConfig, small_world: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "preset.py"
    falling = OptimConfig(schedule=ScheduleConfig(kind="linear"))
    sampled = NextItemConfig(kind="sampled_softmax", negatives=32)
    run = replace(small_run, train={"epochs": epochs}, optim=falling, loss=sampled)
    preset.write_text(PRESET.format(text=json.dumps(run.to_plain())))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # What is not killed runs in this process, which has compiled the programs.
    assert mdrec(*command(preset, small_world, whole)) == 0
    chance, hits = random.Random(kills), 0
    for number in range(kills):
        resume = ("--resume",) if number else ()
        hits += kill_somewhere(command(preset, small_world, broken, *resume), broken, chance, 0.5)
    assert hits == kills
    assert mdrec(*command(preset, small_world, broken, "--resume")) == 0
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    one, other = load_run(whole), load_run(broken)
    assert one.step == other.step
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_run_can_start_from_anothers_weights(small_run: RunConfig, small_world: Path, tmp_path: Path) -> None:
    dataset = open_dataset(small_world)
    fit(small_run, dataset, RunFolder(tmp_path / "first"))
    fit(small_run, dataset, RunFolder(tmp_path / "second"), init_from=tmp_path / "first")
    first, second = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("first", "second"))
    assert json.loads(second[0])["loss"] < json.loads(first[0])["loss"]
