"""Reading and writing files of our own. A write that is killed, or that finds the disk full, leaves the old file or the
new one, never half of one."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdrec_jax.errors import InputError

PART = ".part"
"""The ending of a file that is still being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it is synced and renamed over `path` when the block ends without an error.

    Raises:
        InputError: `path` is a folder, the disk is full, or the folder cannot be written.
    """
    check_writable(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise InputError("cannot be written", file=path, found=error, expected="room and the right to write") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


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
