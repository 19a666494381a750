"""Reading and writing files of our own. A write that is killed, or that finds the disk full, leaves the old file or the
new one, never half of one."""

import errno
import glob
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mdrec_jax.errors import InputError

PART = ".part"
"""The ending of a file that is still being written."""


_THIS_PROCESS = secrets.token_hex(4)
"""Tells the parts of this process from those of an earlier one that had its number."""


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to; it is synced and renamed over `path` when the block ends without an error.

    It gets the permissions of the file that it replaces, or those that the umask leaves a new one. Where `path` is a
    link, the link is replaced and not what it leads to. What killed writers of this machine left of `path` is removed.

    Args:
        private: only its owner may read it, whatever stood there before.

    Raises:
        InputError: `path` is a folder, the disk is full, or the folder cannot be written.
    """
    check_writable(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path)
        old = path.stat().st_mode & 0o777 if path.is_file() else None
        mode = 0o600 if private else old
        name = f"{_part_prefix(path)}{os.getpid()}-{_THIS_PROCESS}-{secrets.token_hex(4)}{PART}"
        # the old file's permissions are given at the end: what is being written is never open to more
        made = os.open(path.parent / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600)
        os.close(made)
        part = path.parent / name
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        part.replace(path)
    except Exception as error:
        if not of_the_system(error):
            raise
        raise InputError("cannot be written", file=path, found=error, expected="room and the right to write") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def of_the_system(error: BaseException | None) -> bool:
    """Whether the system refused something. Libraries underneath (Polars, Orbax) tell it as an error of their own, with
    the system's number in its text."""
    return isinstance(error, OSError) or bool(re.search(r"\(os error \d+\)|os_error_code=", str(error)))


def _part_prefix(path: Path) -> str:
    # a name may be as long as the system allows
    name = os.fsencode(path.name)[:100].decode(errors="ignore")
    return f".{name}.{socket.gethostname()[:40]}-"


def remove_parts(path: Path) -> None:
    """Removes what writers of `path` on this machine left behind that no longer run."""
    prefix = _part_prefix(path)
    for left in path.parent.glob(f"{glob.escape(prefix)}*{PART}"):
        process, _, token = left.name.removeprefix(prefix).partition("-")
        ours = process == str(os.getpid())
        if process.isdigit() and (not token.startswith(_THIS_PROCESS) if ours else not alive(int(process))):
            left.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_in_place(path: Path) -> TextIO:
    """A text file of our own to read and to append to, made where there is none; links are not followed.

    Raises:
        InputError: `path` is a link, or no plain file.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _not_plain(path) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_plain(path)
    return os.fdopen(handle, "a+", encoding="utf-8")


def _not_plain(path: Path) -> InputError:
    found = "a link" if path.is_symlink() else "no plain file"
    return InputError("will not be written to", file=path, found=found, expected="a plain file of our own, or none")


def check_writable(path: Path) -> None:
    """Refuses, before any work, a file to write whose place is taken.

    Raises:
        InputError: `path` is a folder, or something above it is a file.
    """
    if path.is_dir():
        raise InputError("is a folder", file=path, expected="the name of a file to write")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError("cannot be written", file=path, found=f"a file: {above}", expected="a folder to write to")


def check_output(name: str | None) -> None:
    """`check_writable` of a file that a command line names; - stands for standard output, None for no file."""
    if name not in (None, "-"):
        check_writable(Path(name))


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically. Raises InputError as `replacing`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises InputError as `replacing`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_object(path: Path, *fields: str) -> dict[str, Any]:
    """The JSON object in a file of our own that has to hold these fields.

    Raises:
        InputError: missing, damaged, or without one of them.
    """
    expected = "a JSON object" + (f" with {', '.join(fields)}" if fields else "")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("a file is missing", file=path, expected=expected) from None
    except ValueError as error:  # also bytes that are not UTF-8
        raise InputError("a damaged file", file=path, found=error, expected=expected) from None
    if not isinstance(value, dict) or any(field not in value for field in fields):
        found = ", ".join(value) or "no field" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise InputError("a damaged file", file=path, found=found, expected=expected)
    return value
