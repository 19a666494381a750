"""Replacing a whole folder so that a kill or a full disk at any moment leaves the old one or the new one."""

import ctypes
import glob
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdrec_jax.files import alive

RENAME_EXCHANGE = 2
"""The flag of Linux's renameat2 and the value of macOS's RENAME_SWAP."""
AT_FDCWD = -100


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to fill; when the block ends without an error it takes the place of `target`, and its
    permissions.

    Everything in it is synced to the disk before. What stood at `target` is removed after. A killed run leaves its
    folder behind; the next one on the same machine removes it.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    part = target.parent / f".{target.name}.part-{socket.gethostname()}-{os.getpid()}"
    part.mkdir()
    try:
        yield part
        _sync(part)
        if target.exists():
            part.chmod(target.stat().st_mode & 0o777)
            _exchange(part, target)
        else:
            part.rename(target)
        _sync_entry(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def recover(target: Path) -> None:
    """Puts the old folder back where a kill fell between the two renames of a file system that cannot exchange."""
    target = target.resolve()
    if not target.exists() and _previous(target).is_dir():
        _previous(target).rename(target)


def _exchange(part: Path, target: Path) -> None:
    """Swaps two folders; in one step where the system can, else in two that `recover` can mend."""
    if _exchange_at_once(part, target):
        return
    shutil.rmtree(_previous(target), ignore_errors=True)
    target.rename(_previous(target))
    part.rename(target)
    shutil.rmtree(_previous(target), ignore_errors=True)


def _exchange_at_once(part: Path, target: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(part), os.fsencode(target)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(first, second, RENAME_EXCHANGE) == 0
    if hasattr(library, "renameat2"):
        return library.renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE) == 0
    return False


def _sync(folder: Path) -> None:
    for entry in [*folder.rglob("*"), folder]:
        _sync_entry(entry)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(target: Path) -> None:
    prefix = f".{target.name}.part-{socket.gethostname()}-"
    for entry in target.parent.glob(f"{glob.escape(prefix)}*"):
        process = entry.name.removeprefix(prefix)
        # a folder of our own number is of an earlier process: this one makes its folder behind this
        if process.isdigit() and (int(process) == os.getpid() or not alive(int(process))):
            shutil.rmtree(entry, ignore_errors=True)
