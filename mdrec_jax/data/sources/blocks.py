"""Text tables as blocks of whole records: where each record starts, which line that is, how many fields it has.

Every byte passes through here once, before the table's parser sees it. Quotes are checked as RFC 4180 has them: one
opens a field at its start, is written twice inside, and closes the field at its end. Anything else would make a parser
take separators and ends of lines for text, and lose rows without a word, even in a column that nobody reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.compression import MAX_RECORD, refuse_long, text_chunks
from mdrec_jax.data.sources.textform import TextForm, recover
from mdrec_jax.errors import InputError

BLOCK_BYTES = 4 << 20
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34


@dataclass(frozen=True)
class Block:
    """Whole records behind each other, without blank lines; record k begins at byte `starts[k]` of `data`."""

    data: bytes
    starts: Int64[np.ndarray, " N"]
    lines: Int64[np.ndarray, " N"]
    """The line of the file, from 1, that each begins in."""

    @classmethod
    def of(cls, record: bytes) -> "Block":
        """One record, of line 1."""
        return cls(record, np.zeros(1, np.int64), np.ones(1, np.int64))

    def record(self, number: int) -> bytes:
        """The bytes of one record."""
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.data)
        return self.data[self.starts[number] : end]

    def behind(self, number: int) -> "Block":
        """What follows the first `number` records."""
        start = self.starts[number] if number < len(self.starts) else len(self.data)
        return Block(self.data[start:], self.starts[number:] - start, self.lines[number:])

    def keep(self, which: Sequence[int] | Int64[np.ndarray, " n"]) -> "Block":
        """The records at the places (ascending) `which`."""
        parts = [self.record(number) for number in which]
        sizes = np.array([len(part) for part in parts], np.int64)
        return Block(b"".join(parts), np.cumsum(sizes) - sizes, self.lines[np.asarray(which, np.int64)])


@dataclass(frozen=True)
class _Place:
    """Where reading stands: the file, its form, the first line of what comes, the fields that a record has."""

    file: Path
    form: TextForm
    line: int
    columns: int | None
    last: bool

    def error(self, problem: str, buffer: bytes, at: int, **more) -> InputError:
        row = self.line + buffer.count(b"\n", 0, at)
        return InputError(problem, file=self.file, row=row, **more)


def blocks(file: Path, form: TextForm, bad_rows: BadRows | None = None) -> Iterator[Block]:
    """The records of a file, its header among them, in blocks of about BLOCK_BYTES.

    Args:
        bad_rows: counts the records that are left out because their quotes or fields are wrong; None = the first of
            them is an error.

    Raises:
        InputError: a file that cannot be unpacked, a quote that RFC 4180 does not have, a record with more fields than
            the first or of more than MAX_RECORD bytes, a lone carriage return among lines that end otherwise.
    """
    first = first_record(file, form)
    rest, line, columns = b"", 1, None if first is None else form.fields(first)
    for chunk, last in text_chunks(file, BLOCK_BYTES):
        buffer = rest + chunk
        place = _Place(file, form, line, columns, last)
        try:
            block, used = _whole_records(buffer, place)
        except InputError:
            if bad_rows is None or columns is None:
                raise
            data, lines, used = recover(buffer, line, form, columns, file, bad_rows, last=last, limit=MAX_RECORD)
            block = _indexed(data, lines)
        line += buffer.count(b"\n", 0, used)
        rest = buffer[used:]
        refuse_long(rest, file, line)
        if len(block.starts):
            yield block


def first_record(file: Path, form: TextForm) -> bytes | None:
    """The first record that is not a blank line; None where there is none.

    Raises:
        InputError: its quotes are wrong, or it is too long; as `blocks`.
    """
    buffer = b""
    for chunk, last in text_chunks(file, 1 << 16):
        buffer += chunk
        begin = len(buffer) - len(buffer.lstrip(b"\r\n"))
        end = begin
        while (end := buffer.find(b"\n", end) + 1) and buffer.count(b'"', begin, end) % 2 and form.quoted:
            pass
        refuse_long(buffer[: end or None], file, 1)
        if begin < len(buffer) and (end or last):
            place = _Place(file, form, buffer.count(b"\n", 0, begin) + 1, None, last=True)
            return _whole_records(buffer[begin : end or None], place)[0].record(0)
    return None


def _whole_records(buffer: bytes, place: _Place) -> tuple[Block, int]:
    """(the whole records at the start of a buffer, bytes that they take there)."""
    form, text = place.form, np.frombuffer(buffer, np.uint8)
    newlines = np.flatnonzero(text == _NEWLINE)
    quotes = np.flatnonzero(text == _QUOTE) if form.quoted and b'"' in buffer else newlines[:0]
    if len(quotes):
        _refuse_stray(buffer, text, quotes, place)
        outside = (np.searchsorted(quotes, newlines) & 1) == 0
        ends = newlines[outside]
    else:
        outside, ends = None, newlines
    if place.last and len(buffer) and (not len(ends) or ends[-1] != len(buffer) - 1):
        if len(quotes) & 1:
            problem, hint = "a quote that is never closed", "close it, or write a quote inside a quoted field twice"
            raise place.error(problem, buffer, int(quotes[-1]), found=_around(buffer, int(quotes[-1])), hint=hint)
        ends = np.append(ends, len(buffer))
    if not len(ends):
        return Block(b"", newlines[:0], newlines[:0]), 0
    starts = np.concatenate(([0], ends[:-1] + 1))
    used = min(int(ends[-1]) + 1, len(buffer))
    lines = place.line + (np.arange(len(starts)) if outside is None else np.searchsorted(newlines, starts))
    if form.separator is not None:
        _refuse_lone_returns(buffer[:used], text[:used], quotes, place)
        if outside is not None and not outside.all():
            _refuse_swallowed(buffer, starts, newlines[~outside], used, place)
        _refuse_too_many(text[:used], quotes, starts, lines, place)
    return _without_blank(buffer[:used], text[:used], starts, ends, lines), used


def _without_blank(
    data: bytes, text: UInt8[np.ndarray, " B"], starts: np.ndarray, ends: np.ndarray, lines: np.ndarray
) -> Block:
    length = ends - starts
    short = np.flatnonzero(length <= 1)
    blank = short[(length[short] == 0) | (text[starts[short]] == _RETURN)]
    if not len(blank):
        return Block(data, starts, lines)
    keep = np.ones(len(text), bool)
    for offset in (0, 1):
        inside = starts[blank] + offset <= np.minimum(ends[blank], len(text) - 1)
        keep[(starts[blank] + offset)[inside]] = False
    full = np.delete(np.arange(len(starts)), blank)
    before = np.concatenate(([0], np.cumsum(keep)))
    return Block(text[keep].tobytes(), before[starts[full]], lines[full])


def _indexed(data: bytes, lines: list[tuple[int, int]]) -> Block:
    """A block from sound records given as (bytes, line)."""
    size = np.array([size for size, _ in lines], np.int64)
    return Block(data, np.cumsum(size) - size, np.array([line for _, line in lines], np.int64))


def _refuse_stray(buffer: bytes, text: UInt8[np.ndarray, " B"], quotes: np.ndarray, place: _Place) -> None:
    """Refuses a quote that neither opens nor closes a field, nor is one of two."""
    separator = ord(place.form.separator or "\n")
    touching = np.diff(quotes) == 1
    opens, closes = quotes[0::2], quotes[1::2]
    before = text[np.maximum(opens - 1, 0)]
    fine = (opens == 0) | (before == separator) | (before == _NEWLINE)
    fine[1:] |= touching[1::2][: len(opens) - 1]
    behind = text[np.minimum(closes + 1, len(text) - 1)]
    sound = (closes == len(text) - 1) | (behind == separator) | (behind == _NEWLINE) | (behind == _RETURN)
    sound[: len(touching[1::2])] |= touching[1::2]
    first = [array[~good][0] for array, good in ((opens, fine), (closes, sound)) if not good.all()]
    if not first:
        return
    at = int(min(first))
    hint = 'inside a field between quotes a quote is written twice: "6"" pipe"'
    if at in opens:
        problem = "a quote inside a field that does not begin with one"
        raise place.error(problem, buffer, at, found=_around(buffer, at), hint=hint)
    opening = int(opens[np.searchsorted(opens, at) - 1])
    raise place.error(
        "a quoted field does not end at its closing quote", buffer, opening, found=_around(buffer, at),
        expected=f"a separator behind the quote in row {place.line + buffer.count(b'\n', 0, at)}", hint=hint,
    )  # fmt: skip


def _around(buffer: bytes, at: int) -> str:
    """The text about a byte, inside its line."""
    begin, end = buffer.rfind(b"\n", 0, at) + 1, buffer.find(b"\n", at)
    return buffer[max(begin, at - 30) : min(end if end >= 0 else len(buffer), at + 30)].decode("utf-8", "replace")


def _refuse_lone_returns(data: bytes, text: UInt8[np.ndarray, " B"], quotes: np.ndarray, place: _Place) -> None:
    if b"\r" not in data or data.count(b"\r") == data.count(b"\r\n"):
        return
    returns = np.flatnonzero(text[:-1] == _RETURN)
    lone = returns[(text[returns + 1] != _NEWLINE) & ((np.searchsorted(quotes, returns) & 1) == 0)]
    if len(lone):
        problem, expected = "a carriage return inside a line", "lines that all end alike"
        raise place.error(problem, data, int(lone[0]), found=_around(data, int(lone[0])), expected=expected)


def _refuse_swallowed(buffer: bytes, starts: np.ndarray, inner: np.ndarray, used: int, place: _Place) -> None:
    """Refuses a quoted field over several lines each of which is a row by itself: two stray quotes make such a one."""
    ends = np.append(starts[1:], used)
    for number in np.unique(np.searchsorted(starts, inner, side="right") - 1):
        record = buffer[starts[number] : ends[number]]
        if place.columns and place.form.swallows_rows(record, place.columns):
            raise place.error(
                "a quoted field over several lines, each of which looks like a row", buffer, int(starts[number]),
                found=_around(buffer, int(starts[number])), expected="a quote that closes in its own line",
                hint='a quote that is part of the text is written twice, between quotes: "6"" pipe"',
            )  # fmt: skip


def _refuse_too_many(
    text: UInt8[np.ndarray, " B"], quotes: np.ndarray, starts: np.ndarray, lines: np.ndarray, place: _Place
) -> None:
    separators = np.flatnonzero(text == ord(place.form.separator or "\n"))
    if len(quotes):
        separators = separators[(np.searchsorted(quotes, separators) & 1) == 0]
    fields = np.diff(np.searchsorted(separators, np.append(starts, len(text)))) + 1
    many = np.flatnonzero(fields > (place.columns or 0))
    if place.columns is not None and len(many):
        raise InputError(
            "too many fields", file=place.file, row=int(lines[many[0]]), found=f"{fields[many[0]]} fields",
            expected=f"{place.columns} fields, as in the header",
        )  # fmt: skip
