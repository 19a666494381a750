"""Checkpoints: whole or refused, read beside the one who writes them, never of a model that diverged."""

import json
import random
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mdrec_jax.errors import InputError, NonFiniteError
from mdrec_jax.train.runs import checkpoint, sealed
from mdrec_jax.train.runs.checkpoint import Checkpoints, Progress, load_best
from mdrec_jax.train.state import TrainState, abstract
from tests.train.states import state_at, write, written

TARGET = abstract(state_at(0))


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything under a folder: name -> (inode, time of change, bytes)."""
    entries = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in entries
    }


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def test_the_newest_few_and_the_best_are_kept(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8), best=3)
    assert sealed.steps(tmp_path) == [3, 6, 7]
    assert load_best(tmp_path, TARGET)[1] == 3
    with Checkpoints(tmp_path, 2) as checkpoints:
        state, progress = checkpoints.restore(TARGET)
    assert (written(state), progress) == (7, Progress(best_value=1.0, best_step=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "6", "7"]


def test_twenty_flipped_bits_are_each_found_and_another_checkpoint_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, range(1, 4))
    files = sorted(path for path in (tmp_path / "3").rglob("*") if path.is_file() and path.stat().st_size)
    for seed in range(20):
        chance = random.Random(seed)
        damaged = chance.choice(files)
        before = damaged.read_bytes()
        flip(damaged, chance)
        state, step = load_best(tmp_path, TARGET)
        assert step == written(state) == 2
        shown = capsys.readouterr().err
        assert str(damaged) in shown
        assert "the checkpoint of step 2 is used instead" in shown
        damaged.write_bytes(before)
    assert load_best(tmp_path, TARGET)[1] == 3


def test_a_missing_or_damaged_best_one_falls_back_to_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, range(1, 6), best=2)
    flip(tmp_path / "2" / "state" / "manifest.ocdbt", random.Random(1))
    assert load_best(tmp_path, TARGET)[1] == 5
    assert "manifest.ocdbt" in capsys.readouterr().err
    sealed.discard(tmp_path, 2)
    assert load_best(tmp_path, TARGET)[1] == 5
    shown = capsys.readouterr().err
    assert f"{tmp_path / '2'}" in shown
    assert "step 5 is used instead" in shown


def test_a_file_that_is_missing_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, range(1, 3))
    for name in ("state/_sharding", "checkpoint.json"):
        (tmp_path / "2" / name).unlink()
        assert load_best(tmp_path, TARGET)[1] == 1
        assert name in capsys.readouterr().err


def test_resuming_goes_on_from_the_newest_whole_one_and_writes_the_damaged_ones_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, range(1, 4))
    (tmp_path / "3" / "checkpoint.json").write_text("{}")
    with Checkpoints(tmp_path, 2) as checkpoints:
        state, _ = checkpoints.restore(TARGET)
        assert written(state) == 2
        checkpoints.save(state_at(33), 3, Progress())
    assert "renamed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "3.damaged"]
    assert written(load_best(tmp_path, TARGET)[0]) == 33


def test_without_a_whole_one_all_stay_and_reading_and_resuming_are_refused(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    for step in (1, 2):
        flip(tmp_path / str(step) / "checkpoint.json", random.Random(step))
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="no whole checkpoint"):
        load_best(tmp_path, TARGET)
    with Checkpoints(tmp_path, 2) as checkpoints, pytest.raises(InputError, match="no whole checkpoint"):
        checkpoints.restore(TARGET)
    assert files_of(tmp_path) == before
    with pytest.raises(InputError, match="no finished checkpoint"):
        load_best(tmp_path / "nothing", TARGET)


def test_a_reader_changes_nothing_and_leaves_what_is_being_written(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    for name in (".saving-3", ".saving-3.orbax-checkpoint-tmp", ".removing-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"part")
    before = files_of(tmp_path)
    assert load_best(tmp_path, TARGET)[1] == 2
    assert files_of(tmp_path) == before
    with Checkpoints(tmp_path, 2):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


READER = """
import json, sys
from pathlib import Path
from mdrec_jax.train.runs.checkpoint import load_best
from mdrec_jax.train.state import abstract
from tests.train.states import state_at, written

folder, target, seen = Path(sys.argv[1]), abstract(state_at(0)), []
while not (folder.parent / "done").exists():
    state, step = load_best(folder, target)
    assert written(state) == step
    seen.append(step)
    (folder.parent / "seen").touch()
print(json.dumps(seen))
"""


@pytest.mark.parametrize("rounds", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_reading_in_a_loop_beside_one_who_writes(rounds: int, tmp_path: Path) -> None:
    """Every checkpoint is the best and the only one that is kept, so that each is removed soon after it came."""
    folder = tmp_path / "checkpoints"
    write(folder, range(1, 2))
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        step = 1
        while reader.poll() is None and (step < rounds or not (tmp_path / "seen").exists()):
            step += 1
            write(folder, range(step, step + 1), best=step, keep=1)
        last = step + 3
        write(folder, range(step + 1, last + 1), keep=1)
        (tmp_path / "done").touch()
        out, err = reader.communicate()
    assert (reader.returncode, err) == (0, "")
    seen = json.loads(out)
    assert seen == sorted(seen)
    assert 1 <= seen[0] < seen[-1] <= last


def test_a_checkpoint_that_is_removed_before_it_is_read_is_looked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, range(1, 2))
    held, calls = sealed.held, []

    def removed_before(folder: Path, step: int) -> AbstractContextManager[None]:
        calls.append(step)
        if step == 1:
            write(tmp_path, range(2, 3), keep=1)
        return held(folder, step)

    monkeypatch.setattr(sealed, "held", removed_before)
    assert load_best(tmp_path, TARGET)[1] == 2
    assert calls == [1, 2]
    assert capsys.readouterr().err == ""


def test_what_is_being_read_is_removed_later(tmp_path: Path) -> None:
    write(tmp_path, range(1, 2))
    with sealed.held(tmp_path, 1):
        write(tmp_path, range(2, 3), keep=1)
        assert sealed.steps(tmp_path) == [1, 2]
        assert sealed.verify(tmp_path, 1)["step"] == 1
    write(tmp_path, range(3, 4), keep=1)
    assert sealed.steps(tmp_path) == [3]


@pytest.mark.parametrize("part", [".params.dense", ".params.tables", ".slots"])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1e30])
def test_what_is_not_finite_is_neither_saved_nor_loaded(
    part: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if part == ".slots" and value == 1e30:
        value = -jnp.inf

    def spoilt(path: tuple, leaf: jax.Array) -> jax.Array:
        hit = jax.tree_util.keystr(path).startswith(part) and leaf.dtype == jnp.float32
        return leaf.at[(-1,) * leaf.ndim].set(value) if hit else leaf

    bad: TrainState = jax.tree_util.tree_map_with_path(spoilt, state_at(2))
    with Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.save(state_at(1), 1, Progress())
        with pytest.raises(NonFiniteError, match=f"{part}.*step 2"):
            checkpoints.save(bad, 2, Progress())
        monkeypatch.setattr(checkpoint, "check_finite", lambda state, step: None)
        checkpoints.save(bad, 2, Progress(best_value=1.0, best_step=2))
    assert load_best(tmp_path, TARGET)[1] == 1
    assert "a diverged model" in capsys.readouterr().err
