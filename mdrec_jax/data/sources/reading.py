"""Careful reading of outside files: bounded, inside the folder that was named, with errors that say where."""

import gzip
import io
import json
import math
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

from mdrec_jax.errors import InputError

MAX_BYTES = 4 << 30
"""The most that a file may unpack to when it is read into memory."""
CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


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
    """Unpacks gzip bytes (an archive's member, say) to at most `limit` bytes.

    Raises:
        InputError: truncated, damaged, or larger than `limit`.
    """
    return _read_stream(io.BytesIO(data), file, limit)


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The content of a file, unpacked where it is gzip, of at most `limit` bytes.

    Raises:
        InputError: missing, empty, truncated, damaged, or larger than `limit`.
    """
    require_file(path)
    with path.open("rb") as stream:
        return _read_stream(stream, path, limit)


def _read_stream(stream, file: Path, limit: int) -> bytes:
    head = stream.read(2)
    stream.seek(0)
    source = gzip.GzipFile(fileobj=stream) if head == GZIP_MAGIC else stream
    parts, size = [], 0
    try:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > limit:
                raise InputError(
                    "unpacks to more than is allowed", file=file, found=f"over {limit} bytes", expected=f"<= {limit}"
                )
            parts.append(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError("truncated or damaged archive", file=file, found=error, expected="a whole gzip file") from None
    return b"".join(parts)


def check_gzip(path: Path, *, limit: int) -> int:
    """Reads a gzip file through once without keeping it: its unpacked size in bytes.

    Raises:
        InputError: truncated, damaged, or larger than `limit`.
    """
    size = 0
    try:
        with gzip.open(path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
                if size > limit:
                    raise InputError(
                        "unpacks to more than is allowed",
                        file=path,
                        found=f"over {limit} bytes",
                        expected=f"<= {limit}",
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError("truncated or damaged archive", file=path, found=error, expected="a whole gzip file") from None
    return size


def read_text(path: Path, *, encoding: str = "utf-8", limit: int = MAX_BYTES) -> str:
    """The text of a file, unpacked where it is gzip.

    Raises:
        InputError: as `read_bytes`, or bytes that are not `encoding`.
    """
    data = read_bytes(path, limit=limit)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 8]
        raise InputError("text cannot be decoded", file=path, row=row, found=found, expected=encoding) from None


def read_lines(path: Path, *, encoding: str = "utf-8", limit: int = MAX_BYTES) -> Iterator[tuple[int, str]]:
    """(row, line) of every line that is not blank, rows from 1.

    Raises:
        InputError: as `read_text`.
    """
    for row, line in enumerate(read_text(path, encoding=encoding, limit=limit).split("\n"), 1):
        if line.strip():
            yield row, line.rstrip("\r")


def read_json(path: Path, *, limit: int = MAX_BYTES) -> object:
    """The JSON document of a file.

    Raises:
        InputError: as `read_text`, or not JSON.
    """
    text = read_text(path, limit=limit)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = text[max(0, error.pos - 10) : error.pos + 30]
        raise InputError("is not JSON", file=path, row=error.lineno, found=found, expected=error.msg) from None


def parse_int(text: str, *, file: Path, row: int, column: str, minimum: int | None = 0) -> int:
    """The whole number that `text` writes.

    Raises:
        InputError: not a whole number, or below `minimum`.
    """
    try:
        value = int(text)
    except ValueError:
        raise InputError(
            "unparsable number", file=file, row=row, column=column, found=text, expected="a whole number"
        ) from None
    if minimum is not None and value < minimum:
        raise InputError(
            "value out of range", file=file, row=row, column=column, found=text, expected=f"at least {minimum}"
        )
    return value


def parse_float(text: str, *, file: Path, row: int, column: str, minimum: float | None = 0.0) -> float:
    """The finite number that `text` writes.

    Raises:
        InputError: not a number, NaN, infinite, or below `minimum`.
    """
    try:
        value = float(text)
    except ValueError:
        raise InputError(
            "unparsable number", file=file, row=row, column=column, found=text, expected="a number"
        ) from None
    if not math.isfinite(value) or (minimum is not None and value < minimum):
        expected = "a finite number" + (f", at least {minimum:g}" if minimum is not None else "")
        raise InputError("value out of range", file=file, row=row, column=column, found=text, expected=expected)
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
    require_file(path)
    size = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                size += member.size
                if size > limit:
                    raise InputError(
                        "unpacks to more than is allowed",
                        file=path,
                        found=f"over {limit} bytes",
                        expected=f"<= {limit}",
                    )
                stream = archive.extractfile(member)
                data = stream.read() if stream is not None else b""
                if len(data) != member.size:
                    raise InputError("truncated archive", file=path, found=f"{len(data)} bytes of {member.name}")
                yield member.name, data
            _require_end(archive, path)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError("truncated or damaged archive", file=path, found=error, expected="a whole tar file") from None
