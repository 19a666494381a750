"""Careful reading of outside files: bounded, inside the folder that was named, with errors that say where."""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from mdrec_jax.data.sources.compression import (
    BOM,
    FREE_BYTES,
    MAX_RATIO,
    bytes_chunks,
    damaged,
    file_chunks,
    text_lines,
    too_large,
)
from mdrec_jax.data.sources.oddities import HALF, WHOLE, halved, json_pairs
from mdrec_jax.errors import InputError

MAX_BYTES = 4 << 30
"""The most that a file may unpack to when it is read into memory."""
FREE_COUNT = 100_000
"""How many users or items a file may declare whatever occurs in it."""
DECLARED_RATIO = 100


def one_path(paths: Sequence[Path], what: str) -> Path:
    """The only path of a source that reads one file or folder.

    Raises:
        InputError: none or several were given.
    """
    if len(paths) != 1:
        raise InputError("wrong number of paths", found=f"{len(paths)} paths", expected=f"one path: {what}")
    return paths[0]


def require_file(path: Path, what: str = "a file") -> Path:
    """`path`, when it is a file with something in it.

    Raises:
        InputError: missing, a folder, or empty.
    """
    if not path.exists():
        raise InputError("no such file", file=path, expected=what)
    if not path.is_file():
        raise InputError("is not a file", file=path, expected=what)
    if path.stat().st_size == 0:
        raise InputError("the file is empty", file=path, found="0 bytes", expected=what)
    return path


def require_folder(path: Path, what: str = "a folder") -> Path:
    """`path`, when it is a folder.

    Raises:
        InputError: missing or not a folder.
    """
    if not path.is_dir():
        raise InputError("no such folder" if not path.exists() else "is not a folder", file=path, expected=what)
    return path


@overload
def find_in(folder: Path, name: str, *, optional: Literal[False] = False) -> Path: ...


@overload
def find_in(folder: Path, name: str, *, optional: Literal[True]) -> Path | None: ...


def find_in(folder: Path, name: str, *, optional: bool = False) -> Path | None:
    """The file `name` or `name`.gz in `folder` (`name` may hold sub-folders); never a file outside of it.

    Returns:
        Its path; None where it is missing and `optional`.

    Raises:
        InputError: missing, empty, or a link that leads out of the folder.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if not path.exists():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError("leads out of its folder", file=path, found=path.resolve(), expected=f"inside {folder}")
        return require_file(path)
    if optional:
        return None
    raise InputError("a file is missing", file=folder, expected=f"{name} or {name}.gz in this folder")


def unzip(data: bytes, *, file: Path, limit: int = MAX_BYTES) -> bytes:
    """Unpacks packed bytes (an archive's member, say) to at most `limit` bytes.

    Raises:
        InputError: truncated, damaged, larger than `limit`, or much larger than `data`.
    """
    return _join(bytes_chunks(data, file), file, limit)


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The content of a file, unpacked where it is packed, of at most `limit` bytes.

    Raises:
        InputError: missing, empty, truncated, damaged, larger than `limit`, or much larger than the packed file.
    """
    return _join(file_chunks(require_file(path)), path, limit)


def _join(chunks: Iterator[bytes], file: Path, limit: int) -> bytes:
    parts, size = [], 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(file, limit)
        parts.append(chunk)
    return b"".join(parts)


def read_text(path: Path, *, encoding: str = "utf-8", limit: int = MAX_BYTES) -> str:
    """The text of a file, unpacked where it is packed, without a byte order mark.

    Raises:
        InputError: as `read_bytes`, or bytes that are not `encoding`.
    """
    return decode(read_bytes(path, limit=limit).removeprefix(BOM), path, 1, encoding)


def decode(data: bytes, path: Path, row: int, encoding: str) -> str:
    """The text of bytes that begin in row `row` of a file. Raises InputError where they are not `encoding`."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row, found = row + data.count(b"\n", 0, error.start), data[error.start : error.start + 8]
        raise InputError("text cannot be decoded", file=path, row=row, found=found, expected=encoding) from None


def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(row, line) of every line that is not blank, rows from 1; packed or plain, in memory that a line bounds.

    Raises:
        InputError: missing, empty, damaged, bytes that are not `encoding`, or a line that is too long.
    """
    for row, line in text_lines(require_file(path)):
        text = decode(line, path, row, encoding)
        if text.strip():
            yield row, text


def read_json(path: Path, *, limit: int = MAX_BYTES) -> object:
    """The JSON document of a file.

    Raises:
        InputError: as `read_text`, not JSON, an object with a key twice, or half of a character.
    """
    text = read_text(path, limit=limit)
    try:
        value = json.loads(text, object_pairs_hook=_keys_once)
    except json.JSONDecodeError as error:
        found = text[max(0, error.pos - 10) : error.pos + 30]
        raise InputError("is not JSON", file=path, row=error.lineno, found=found, expected=error.msg) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise InputError("is not JSON that can be read", file=path, found=error) from None
    if "\\ud" in text.lower() and halved(value):
        raise InputError(HALF, file=path, expected=WHOLE)
    return value


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = json_pairs(pairs)
    if found.repeated:
        raise ValueError(f"the key {min(found.repeated)!r} stands twice")
    return found


def check_declared(count: int, seen: int, *, file: Path, what: str) -> None:
    """Refuses a number of things that a file declares, when far fewer occur: memory is taken for each.

    Args:
        count: as declared.
        seen: the largest number that occurs, plus one.

    Raises:
        InputError: over FREE_COUNT and over DECLARED_RATIO times as many as occur.
    """
    limit = max(FREE_COUNT, DECLARED_RATIO * seen)
    if count > limit:
        expected = f"at most {limit}, where {seen} occur"
        raise InputError(f"more {what} than the data can hold", file=file, found=count, expected=expected)


def parse_int(text: str, *, file: Path, row: int, column: str, minimum: int | None = 0) -> int:
    """The whole number that `text` writes.

    Raises:
        InputError: not a whole number, or below `minimum`.
    """
    try:
        value = int(text) if text.isascii() and "_" not in text else None
    except ValueError:  # also a number of thousands of digits
        value = None
    if value is None:
        raise InputError("unparsable number", file=file, row=row, column=column, found=text, expected="a whole number")
    if minimum is not None and value < minimum:
        raise InputError(
            "value out of range", file=file, row=row, column=column, found=text, expected=f"at least {minimum}"
        )
    return value


def _require_end(archive: tarfile.TarFile, path: Path) -> None:
    """An archive ends with a block of zeros; `tarfile` takes one that was cut off between two members as it is."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        found = f"no end at byte {archive.offset}"
        raise InputError("truncated or damaged archive", file=path, found=found, expected="a whole tar file")


def tar_members(path: Path, *, limit: int = MAX_BYTES) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the plain files of a tar archive, read in memory, in the archive's order.

    Raises:
        InputError: truncated or damaged, or more than `limit` bytes in all.
    """
    limit = min(limit, max(FREE_BYTES, MAX_RATIO * require_file(path).stat().st_size))
    size = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.sparse is not None:  # holes are declared, not stored
                    raise InputError("a sparse file in an archive", file=path, found=member.name)
                size += member.size
                if size > limit:
                    raise too_large(path, limit)
                stream = archive.extractfile(member)
                data = stream.read() if stream is not None else b""
                if len(data) != member.size:
                    raise InputError("truncated archive", file=path, found=f"{len(data)} bytes of {member.name}")
                yield member.name, data
            _require_end(archive, path)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise damaged(path, error) from None
