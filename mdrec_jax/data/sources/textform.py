"""How a text table is written, what one of its records must look like, and which are sound among broken ones."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mdrec_jax.data.sources.bad_rows import BadRows

_QUOTED = rb'"(?:[^"]|"")*+"'
_NUMBER = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]*)?")
_NAME = re.compile(rb"\S*[0-9]\S*")


@dataclass(frozen=True)
class TextForm:
    """How the lines of a table are written.

    Args:
        separator: one ASCII character between fields; None = a JSON object a line.
        quoted: whether quotes are as in RFC 4180; else they are part of the text.
        header: whether the first record names the columns; else they are called 1, 2, 3, ...
    """

    separator: str | None
    quoted: bool
    header: bool = True

    @cached_property
    def record(self) -> re.Pattern[bytes]:
        """A whole record, with or without the end of its line."""
        field = self._field
        return re.compile(rb"(?:%b)(?:%b(?:%b))*+\r?\n?" % (field, self._separator, field))

    @cached_property
    def open_record(self) -> re.Pattern[bytes]:
        """The beginning of a record whose last field is quoted and not closed yet."""
        return re.compile(rb'(?:(?:%b)%b)*+"(?:[^"]|"")*+' % (self._field, self._separator))

    def fields(self, record: bytes) -> int:
        """How many fields a sound record has."""
        if self.separator is None:
            return 1
        text = re.sub(_QUOTED, b"", record) if self.quoted and b'"' in record else record
        return text.count(self.separator.encode()) + 1

    def swallows_rows(self, record: bytes, columns: int) -> bool:
        """Whether every line of a record over several lines looks like a row of `columns` fields by itself.

        Lines that a quote took for text have all their separators, and a number or an id where the first line has one;
        the lines of a text that somebody wrote hardly ever do.
        """
        separator = (self.separator or "\n").encode()
        lines = [line.split(separator) for line in record.rstrip(b"\r\n").split(b"\n")]
        if len(lines) < 2 or any(len(line) != columns for line in lines):
            return False
        telling = [place for place, field in enumerate(lines[0]) if _kind(field)]
        return bool(telling) and all(
            _kind(line[place]) == _kind(lines[0][place]) for line in lines[1:] for place in telling
        )

    @property
    def _separator(self) -> bytes:
        return re.escape((self.separator or "\n").encode())

    @property
    def _field(self) -> bytes:
        if not self.quoted:
            return rb"[^\r\n%b]*+" % self._separator
        return rb'%b|[^"\r\n%b]*+' % (_QUOTED, self._separator)


def _kind(field: bytes) -> str | None:
    """What a field is by its looks; None for words, and for the field that a quote stands in."""
    if b'"' in field:
        return None
    if _NUMBER.fullmatch(field.strip()):
        return "number"
    return "name" if _NAME.fullmatch(field.strip()) else None


MAX_LINES = 200
"""Lines that a quoted field may go on for before its opening quote is held to be a stray one."""
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_STRAY, _MANY = "rows with a stray quote or carriage return", "rows with too many fields"


def recover(
    buffer: bytes, line: int, form: TextForm, columns: int, file: Path, bad_rows: BadRows, *, last: bool, limit: int
) -> tuple[bytes, list[tuple[int, int]], int]:
    """Takes a buffer apart that holds a broken record; a broken record is one line.

    Args:
        buffer: begins where a record begins.
        line: the number of its first line.
        columns: the most fields that a record may have.
        last: whether the file ends with the buffer; else what may go on behind it is left for the next time.
        limit: the bytes that may be left so.

    Returns:
        (the sound records behind each other, (bytes, line) of each, bytes of the buffer that were dealt with).
    """
    physical = _LINE.findall(buffer)
    good: list[bytes] = []
    rows: list[tuple[int, int]] = []
    place = used = 0
    while place < len(physical):
        text = physical[place]
        whole = last or text.endswith(b"\n")
        taken: int | None = 1
        if whole and not text.strip(b"\r\n"):
            place, used = place + 1, used + len(text)
            continue
        if whole and not form.record.fullmatch(text):
            taken = _extent(physical, place, form, columns)
            whole = last or taken is not None or len(physical) - place > MAX_LINES
        if not whole and len(buffer) - used <= limit:
            break  # it may go on in what is not read yet
        record = b"".join(physical[place : place + (taken or 1)])
        if taken is None:
            bad_rows.add(file, _STRAY)
        elif form.fields(record) > columns:
            bad_rows.add(file, _MANY)
        else:
            rows.append((len(record), line + place))
            good.append(record)
        place, used = place + (taken or 1), used + len(record)
    return b"".join(good), rows, used


def _extent(physical: list[bytes], place: int, form: TextForm, columns: int) -> int | None:
    """How many lines the record that begins here takes; None where it is no record."""
    if not form.quoted or not form.open_record.fullmatch(physical[place]):
        return None
    record, quotes = physical[place], physical[place].count(b'"')
    for count, text in enumerate(physical[place + 1 : place + MAX_LINES], 2):
        record, quotes = record + text, quotes + text.count(b'"')
        if quotes % 2 == 0:
            sound = form.record.fullmatch(record) and form.fields(record) <= columns
            return count if sound and not form.swallows_rows(record, columns) else None
    return None
