"""The folder of a run: who may write to it, what it holds, and what a resumed run has to agree with."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdrec_jax.codec import flatten
from mdrec_jax.config import NOT_IDENTITY
from mdrec_jax.errors import InputError
from mdrec_jax.files import PART, check_writable, of_the_system, open_in_place, read_object, write_json

CONFIG, STATE, METRICS, TIMING, LOCK = "config.json", "state.json", "metrics.jsonl", "timing.jsonl", "lock"
CHECKPOINTS, EVALUATION, TENSORBOARD = "checkpoints", "evaluation", "tensorboard"
MAY_DIFFER = (*(f"config.{name}" for name in NOT_IDENTITY), "dataset.path", "versions", "devices")
"""Fields of `config.json` in which a resumed run may differ from the run it resumes."""
STEPS = "steps"
"""The field of `config.json` that says how many steps the schedule has."""
RESUMES = "resumes"
"""The field of `config.json` that lists when the run was resumed, from which step, and what was changed then."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Raises InputError for a path that checkpoints could be written to and not read from."""

    path: Path

    def __post_init__(self) -> None:
        if found := re.findall(r"\[.*\]|\\", str(self.path.absolute())):
            raise InputError(
                "checkpoints cannot be read from such a path: the library that reads them takes it for a pattern",
                file=self.path, found=found[0], expected="a path without backslashes and pairs of square brackets",
            )  # fmt: skip

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def state(self) -> Path:
        return self.path / STATE

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def timing(self) -> Path:
        return self.path / TIMING

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def evaluation(self) -> Path:
        return self.path / EVALUATION

    @property
    def tensorboard(self) -> Path:
        return self.path / TENSORBOARD

    def holds_a_run(self) -> bool:
        return self.config.exists()


def read_data(folder: RunFolder) -> tuple[Path, str]:
    """The path and the hash of the data set that a run learns from, as its `config.json` has them.

    Raises:
        InputError: a file that is missing, or damaged.
    """
    data = read_object(folder.config, "dataset")["dataset"]
    path, digest = (data.get("path"), data.get("hash")) if isinstance(data, dict) else (None, None)
    if not (isinstance(path, str) and isinstance(digest, str)):
        expected = "the path and the hash of a data set"
        raise InputError("a damaged file", file=folder.config, column="dataset", found=data, expected=expected)
    return Path(path), digest


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder's lock; the system lets go of it when the process ends, however it ends.

    Raises:
        InputError: when another process holds it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with open_in_place(folder.path / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InputError(
                "the run folder is in use", file=folder.path, found=f"process {owner}", expected="no other process"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_free(folder: RunFolder) -> None:
    """Refuse a folder that another process holds, without making or changing anything. Raises InputError."""
    if (folder.path / LOCK).is_file():
        with locked(folder):
            pass


@contextmanager
def filling(folder: RunFolder) -> Iterator[None]:
    """What is written into a run folder; a disk that is full ends it with a message. What was whole before stays so.

    Raises:
        InputError: naming what could not be written.
    """
    # For good: a thread may tell what it met when the main thread has gone on.
    logging.getLogger("absl").addFilter(_told_elsewhere)
    try:
        yield
    except Exception as error:
        if not of_the_system(error):
            raise
        raise InputError(
            "the run cannot be written",
            file=folder.path,
            found=str(error).splitlines()[-1][-80:],
            expected="room and the right to write",
            hint="make room, then go on with --resume",
        ) from error


def _told_elsewhere(record: logging.LogRecord) -> bool:
    """False for what a thread that writes checkpoints met on a full disk: it comes to the main thread too."""
    return not (record.exc_info and of_the_system(record.exc_info[1]))


def check_new(folder: RunFolder) -> None:
    """Refuse a folder that holds a run, or anything else that is not ours.

    Raises:
        InputError: naming what was found.
    """
    check_writable(folder.config)
    if folder.holds_a_run():
        raise InputError(
            "the folder holds a run already",
            file=folder.path,
            found=CONFIG,
            expected="an empty or new folder",
            hint="continue it with --resume, start from its weights with --init-from, or give another --run",
        )
    if folder.path.exists():
        # A kill before `config.json` was written leaves `state.json`, or part of one of them: no run yet.
        ours = (LOCK, STATE, *(path.name for path in _unfinished(folder)))
        others = sorted(p.name for p in folder.path.iterdir() if p.name not in ours)
        if others:
            raise InputError(
                "the folder holds something else", file=folder.path, found=others[0], expected="an empty or new folder"
            )


def remove_unfinished(folder: RunFolder) -> None:
    """Removes what kills have left of files that were being written; call it with the folder locked."""
    for path in _unfinished(folder):
        path.unlink()


def _unfinished(folder: RunFolder) -> list[Path]:
    return [path for name in (CONFIG, STATE, METRICS, TIMING) for path in folder.path.glob(f".{name}.*{PART}")]


def start(folder: RunFolder, record: dict[str, Any], shapes: dict[str, Any]) -> None:
    """Write what identifies a new run. `config.json` comes last: with it, the folder holds a run."""
    write_json(folder.state, shapes)
    write_json(folder.config, record)


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted fields of two plain configs that differ: name -> (old, new)."""
    before, after = flatten(old), flatten(new)
    names = sorted(before.keys() | after.keys())
    return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def check_resumable(folder: RunFolder, record: dict[str, Any], shapes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The allowed differences between the run in the folder and `record`.

    Raises:
        InputError: when there is no run, or it differs in what it learns, in its data, or in a parameter's shape.
    """
    if not folder.holds_a_run():
        raise InputError("no run to resume", file=folder.path, expected=f"a folder with {CONFIG}")
    before = read_object(folder.config)
    for name in (RESUMES, STEPS):  # the length may change, and is told as a field of the configuration
        before.pop(name, None)
    changed = differences(before, {name: value for name, value in record.items() if name != STEPS})
    for name, (old, new) in changed.items():
        if not any(name == field or name.startswith(field + ".") for field in MAY_DIFFER):
            raise InputError(
                "the run was started with another value",
                file=folder.config,
                column=name,
                found=new,
                expected=str(old),
                hint="start a new run from its weights with --init-from",
            )
    check_shapes(folder, shapes)
    return changed


def record_resume(folder: RunFolder, record: dict[str, Any], changed: Mapping[str, tuple[Any, Any]], step: int) -> None:
    """Brings `config.json` up to date: the values that hold from `step` on, and a line of what they were before."""
    resumes = read_object(folder.config).get(RESUMES, [])
    time = datetime.now(UTC).isoformat(timespec="seconds")
    one = {"time": time, "step": step, "changed": {name: list(values) for name, values in changed.items()}}
    write_json(folder.config, {**record, RESUMES: [*resumes, one]})


def check_shapes(folder: RunFolder, shapes: dict[str, Any]) -> None:
    """Refuse a checkpoint whose arrays have other names, shapes or types than the program's, before reading it."""
    saved = read_object(folder.state)
    for name in sorted(saved.keys() | shapes.keys()):
        if saved.get(name) != shapes.get(name):
            raise InputError(
                "the saved state does not fit this program",
                file=folder.state,
                column=name,
                found=saved.get(name, "nothing"),
                expected=str(shapes.get(name, "nothing")),
            )
