"""Text files in pieces: unpacked, without a byte order mark, lines that end in newlines and are not endless."""

from collections.abc import Iterator
from pathlib import Path

from mdrec_jax.data.sources.packed import file_chunks
from mdrec_jax.errors import InputError

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
