"""Files as a stream of bytes, unpacked on the way where they are gzip, bzip2, xz, zstd or a zip of one file; text in
pieces whose lines end in newlines and are not endless."""

import bz2
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mdrec_jax.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
_BZIP2_MAGIC, _XZ_MAGIC, _ZIP_MAGIC, _ZSTD_MAGIC = b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zip", ".zst")
FREE_BYTES = 64 << 20
"""What any packed file may unpack to."""
ZSTD_WINDOW = 27
"""Base-2 logarithm of the bytes that unpacking zstd may look back over: 128 MiB, as `zstd --long` takes."""
MAX_RATIO = 250
"""Beyond that, how many times its own size: logs and tables pack to a fifth, seldom to a fiftieth."""
_DAMAGED = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zstd.ZstdError,
    zipfile.BadZipFile,
    RuntimeError,  # what zipfile says of a password
    NotImplementedError,
)


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file as a stream; what stands in it is known from its first bytes, not from its name.

    Raises:
        InputError: a packing that is not read, a zip that does not hold exactly one file, a file without the right to
            read it. Reading from the stream raises what `read_chunks` makes into InputError.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(6)
            stream.seek(0)
            yield _wrap(stream, head, path)
    except PermissionError:
        raise InputError("cannot be read", file=path, found="no permission", expected="the right to read it") from None


def is_packed(path: Path) -> bool:
    """Whether a file is one of those that `unpacked` unpacks."""
    with path.open("rb") as stream:
        return _packing(stream.read(6)) is not None


def _packing(head: bytes) -> str | None:
    known = {"gzip": GZIP_MAGIC, "bzip2": _BZIP2_MAGIC, "xz": _XZ_MAGIC, "zip": _ZIP_MAGIC, "zstd": _ZSTD_MAGIC}
    return next((name for name, magic in known.items() if head.startswith(magic)), None)


def _wrap(stream: IO[bytes], head: bytes, path: Path) -> IO[bytes]:
    packing = _packing(head)
    if packing == "gzip":
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if packing == "bzip2":
        return bz2.BZ2File(stream)  # type: ignore[return-value]
    if packing == "xz":
        return lzma.LZMAFile(stream)  # type: ignore[return-value]
    if packing == "zip":
        return _only_member(stream, path)
    if packing == "zstd":
        return zstd.ZstdFile(stream, options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})  # type: ignore[return-value]
    return stream


def _only_member(stream: IO[bytes], path: Path) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(stream)  # type: ignore[arg-type]
        # what a Mac adds beside each file is no file of the user's
        members = [entry for entry in archive.infolist() if not entry.is_dir() and "__MACOSX/" not in entry.filename]
        if len(members) != 1:
            found = ", ".join(entry.filename for entry in members[:5]) or "no file"
            raise InputError(
                "a zip of several files" if members else "a zip without a file",
                file=path, found=f"{len(members)}: {found}", expected="a zip that holds one file",
                hint="unpack it, and name the files that you mean",
            )  # fmt: skip
        return archive.open(members[0])
    except _DAMAGED as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> InputError:
    """The error for a file whose stream broke."""
    return InputError("truncated or damaged archive", file=path, found=error, expected="a whole packed file")


def read_chunks(stream: IO[bytes], path: Path, *, size: int = CHUNK, packed: int | None = None) -> Iterator[bytes]:
    """The bytes of a stream, `size` at once.

    Args:
        path: named in errors.
        packed: bytes that the content takes packed, when it is packed: it may then unpack to FREE_BYTES, or to
            MAX_RATIO times as much.

    Raises:
        InputError: truncated or damaged, or unpacks to more than that.
    """
    limit = None if packed is None else max(FREE_BYTES, MAX_RATIO * packed)
    total = 0
    while True:
        try:
            chunk = stream.read(size)
        except _DAMAGED as error:
            raise damaged(path, error) from None
        if not chunk:
            return
        total += len(chunk)
        if limit is not None and total > limit:
            raise too_large(path, limit, packed)
        yield chunk


def too_large(path: Path, limit: int, packed: int | None = None) -> InputError:
    """The error for what unpacks to more than `limit` bytes."""
    found = f"over {limit} bytes" + (f" from {packed}" if packed is not None else "")
    return InputError("unpacks to more than is allowed", file=path, found=found, expected=f"<= {limit}")


def file_chunks(path: Path, *, size: int = CHUNK) -> Iterator[bytes]:
    """The content of a file, unpacked, `size` bytes at once. Raises InputError as `unpacked` and `read_chunks`."""
    with unpacked(path) as stream:
        yield from read_chunks(stream, path, size=size, packed=path.stat().st_size if is_packed(path) else None)


def bytes_chunks(data: bytes, path: Path, *, size: int = CHUNK) -> Iterator[bytes]:
    """The same of bytes that are in memory: an archive's member, say, which `path` names in errors."""
    stream = _wrap(io.BytesIO(data), data[:6], path)
    yield from read_chunks(stream, path, size=size, packed=len(data) if _packing(data[:6]) else None)


MAX_RECORD = 16 << 20
"""Bytes of the longest line or record that is read: memory is bounded by it, whatever a packed file unpacks to."""
BOM = b"\xef\xbb\xbf"


def text_chunks(file: Path, size: int) -> Iterator[tuple[bytes, bool]]:
    """Each piece of a file, and whether it is the last.

    Raises:
        InputError: the file cannot be read or unpacked.
    """
    translate = None
    for chunk, last in _with_last(file_chunks(file, size=size)):
        if translate is None:
            chunk = chunk.removeprefix(BOM)
            translate = b"\r" in chunk and b"\n" not in chunk  # as old Macs ended lines
        yield chunk.replace(b"\r", b"\n") if translate else chunk, last


def refuse_long(record: bytes, file: Path, line: int) -> None:
    """Refuses the record that begins in row `line` if it has more than MAX_RECORD bytes. Raises InputError."""
    if len(record) > MAX_RECORD:
        raise InputError(
            "a line or record that is too long", file=file, row=line, found=f"over {MAX_RECORD} bytes",
            expected=f"at most {MAX_RECORD} bytes", hint="is this the right format, and does each line end?",
        )  # fmt: skip


def text_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(row from 1, bytes without the end of line) of every line. Raises InputError as `text_chunks`, or a long line."""
    rest, row = b"", 1
    for chunk, last in text_chunks(file, 1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield row, line.removesuffix(b"\r")
            row += 1
        refuse_long(rest, file, row)
        if last and rest:
            yield row, rest.removesuffix(b"\r")


def _with_last(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    before = None
    for chunk in chunks:
        if before is not None:
            yield before, False
        before = chunk
    if before is not None:
        yield before, True
