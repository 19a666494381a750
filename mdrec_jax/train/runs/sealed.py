"""A folder of files that appears whole or not at all, under a record of what is in it.

A checkpoint is written under another name, its files are hashed, a record goes beside them, and the folder gets its
name in one step. Whoever reads one changes nothing: a shared lock on its record keeps it from being removed meanwhile.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdrec_jax.errors import InputError
from mdrec_jax.files import read_object

RECORD = "checkpoint.json"
"""What a step's folder says of itself: the loop's memory, every file's SHA-256, and a hash of the record."""
SAVING, REMOVING, DAMAGED = ".saving-", ".removing-", ".damaged"
"""Names of a folder that is not finished or not wanted (before the step), or was found damaged (after it)."""


def steps(folder: Path) -> list[int]:
    """The steps whose folders have their name, ascending; whether they are whole is not looked at."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if name.isdecimal())


def seal(folder: Path, step: int, memory: dict[str, Any]) -> None:
    """Gives the written folder of `step` its record and its name; one of the same name that is there is replaced."""
    part, whole = folder / f"{SAVING}{step}", folder / str(step)
    record = {"step": step, "memory": memory, "files": {name: _digest(part / name) for name in _names(part)}}
    (part / RECORD).write_text(_text({**record, "hash": _hash(record)}), encoding="utf-8")
    for path in (*part.rglob("*"), part):
        _sync(path)
    if whole.exists():
        discard(folder, step)
    part.rename(whole)
    _sync(folder)


def discard(folder: Path, step: int) -> None:
    """Removes the folder of `step`; its name is gone in one step."""
    gone = folder / f"{REMOVING}{step}"
    shutil.rmtree(gone, ignore_errors=True)
    (folder / str(step)).rename(gone)
    shutil.rmtree(gone)


def discard_unless_read(folder: Path, step: int) -> None:
    """Removes the folder of `step`, or leaves it for the next time while somebody reads it."""
    with (folder / str(step) / RECORD).open("rb+") as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        discard(folder, step)


@contextmanager
def held(folder: Path, step: int) -> Iterator[None]:
    """Keeps the trainer from removing a step that is being read.

    Raises:
        InputError: it is not there, or not any more.
    """
    path = folder / str(step) / RECORD
    try:
        with path.open("rb") as record:
            fcntl.flock(record, fcntl.LOCK_SH)
            if not path.exists():
                raise FileNotFoundError
            yield
    except FileNotFoundError:
        raise InputError("a file of the checkpoint is missing", file=path, expected="a whole checkpoint") from None


def set_aside(folder: Path, step: int) -> None:
    """Renames the damaged folder of `step`."""
    aside = folder / f"{step}{DAMAGED}"
    shutil.rmtree(aside, ignore_errors=True)
    (folder / str(step)).rename(aside)


def clean(folder: Path) -> None:
    """Removes what a kill left of folders that were being written or removed; for the holder of the run's lock."""
    for path in (*folder.glob(f"{SAVING}*"), *folder.glob(f"{REMOVING}*")):
        shutil.rmtree(path)


def read_record(folder: Path, step: int) -> dict[str, Any]:
    """The record of a step.

    Raises:
        InputError: there is none, or it was changed.
    """
    path = folder / str(step) / RECORD
    record = read_object(path, "step", "memory", "files", "hash")
    as_written = path.read_text(encoding="utf-8") == _text(record)
    found = record.pop("hash")
    if not as_written or found != _hash(record) or record["step"] != step:
        raise InputError("a damaged file", file=path, column="hash", found=found, expected=_hash(record))
    return record


def verify(folder: Path, step: int) -> dict[str, Any]:
    """The record of a step, of which every file is as it was written.

    Raises:
        InputError: naming a file that is missing or was changed.
    """
    record = read_record(folder, step)
    for name, digest in record["files"].items():
        path = folder / str(step) / name
        if not path.is_file():
            raise InputError("a file of the checkpoint is missing", file=path, expected=f"SHA-256 {digest}")
        if (found := _digest(path)) != digest:
            raise InputError(
                "a file of the checkpoint was changed", file=path, found=f"SHA-256 {found}", expected=digest
            )
    return record


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


def _hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
