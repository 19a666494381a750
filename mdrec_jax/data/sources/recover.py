"""The sound records among broken ones, line by line, where the user asked to leave the broken ones out."""

import re
from pathlib import Path

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.textform import TextForm

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
