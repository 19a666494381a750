"""JSON lines: an object a line, read as text columns; values that are no single value are refused."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.blocks import Block
from mdrec_jax.data.sources.oddities import HALF, WHOLE, JsonObject, doubtful, halved, json_pairs
from mdrec_jax.errors import InputError

_CONTAINER = r"^[\[{]"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def json_object(line: bytes, file: Path, row: int) -> JsonObject:
    """The object that a line holds.

    Raises:
        InputError: not UTF-8, not JSON, or no object.
    """
    # a line may name a person: messages say where it is wrong, not what it holds
    expected = "{...} in every line"
    try:
        value = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=json_pairs)
    except UnicodeDecodeError as error:
        found = line[error.start : error.start + 8]
        raise InputError("text cannot be decoded", file=file, row=row, found=found, expected="UTF-8") from None
    except RecursionError:
        found = "lists in lists, or objects in objects, hundreds deep"
        raise InputError("is not JSON", file=file, row=row, found=found, expected=expected) from None
    except ValueError as error:
        raise InputError("is not JSON", file=file, row=row, found=error, expected=expected) from None
    if not isinstance(value, JsonObject):
        found = f"a {type(value).__name__}"
        raise InputError("not a JSON object", file=file, row=row, found=found, expected=expected)
    return value


def parse_json(
    block: Block, file: Path, schema: dict[str, pl.DataType], bad_rows: BadRows | None, *, lists: bool = False
) -> pl.DataFrame:
    """The columns of `schema` from a block of lines; a key that a line does not have is null.

    Args:
        lists: lists and objects where the schema has a text are given as the text that they are written as.

    Raises:
        InputError: a line that is no JSON object, that has one of the keys twice or half of a character in its value,
            or that holds a list or an object where the schema has a text, when `bad_rows` does not count them instead.
    """
    values = {name: kind for name, kind in schema.items() if name != "_row"}
    frame = _read(block, values)
    if frame is None:
        block = _objects(block, file, values, bad_rows, by_parser=False)
        frame = _read(block, values)
    if frame is None:  # the parser minds something that the standard library does not
        block = _objects(block, file, values, bad_rows, by_parser=True)
        frame = _read(block, values)
    if frame is None:
        raise InputError("the lines cannot be read", file=file, row=int(block.lines[0]), expected="{...} in every line")
    frame = frame.with_columns(pl.Series("_row", block.lines))
    frame, block = _without_odd(frame, block, file, list(values), bad_rows)
    texts = [name for name, kind in values.items() if kind == pl.String and not lists]
    return _without_containers(frame, block, file, texts, bad_rows).select(list(schema))


def _read(block: Block, values: dict[str, pl.DataType]) -> pl.DataFrame | None:
    """The columns of a block; None where a line cannot be read, or lines and objects are not equally many."""
    if not len(block.lines):
        return pl.DataFrame(schema=values)
    try:
        frame = pl.read_ndjson(block.data, schema=values)
    except pl.exceptions.PolarsError:
        return None
    return frame if len(frame) == len(block.lines) else None


def _objects(
    block: Block, file: Path, values: dict[str, pl.DataType], bad_rows: BadRows | None, *, by_parser: bool
) -> Block:
    """The lines that are objects with lists where lists have to be."""
    good = []
    for number, line in enumerate(block.lines):
        try:
            record = json_object(block.record(number), file, int(line))
            _check_lists(record, values, file, int(line))
            if by_parser and _read(block.keep([number]), values) is None:
                problem, expected = (HALF, WHOLE) if halved(record) else ("is not JSON", "{...} in every line")
                raise InputError(problem, file=file, row=int(line), expected=expected)
        except InputError:
            if bad_rows is None:
                raise
            bad_rows.add(file, "rows that are no JSON object")
        else:
            good.append(number)
    return block.keep(good)


def _check_lists(record: dict[str, object], values: dict[str, pl.DataType], file: Path, row: int) -> None:
    for name, kind in values.items():
        value = record.get(name)
        if isinstance(kind, pl.List) and value is not None and not isinstance(value, list):
            found = f"a {type(value).__name__}"
            expected = "a list of names"
            raise InputError("not a list", file=file, row=row, column=name, found=found, expected=expected)


def _without_odd(
    frame: pl.DataFrame, block: Block, file: Path, columns: list[str], bad_rows: BadRows | None
) -> tuple[pl.DataFrame, Block]:
    """The rows, and their lines, that have each of the columns at most once, in whole characters."""
    wrong = []
    for place in doubtful(block, columns) if columns else ():
        row = int(block.lines[place])
        try:
            error = _odd_value(json_object(block.record(place), file, row), file, row, columns)
        except InputError as problem:  # the parser took what the standard library does not
            error = problem
        if error is None:
            continue
        if bad_rows is None:
            raise error
        bad_rows.add(file, "rows with a key twice or half of a character")
        wrong.append(place)
    if not wrong:
        return frame, block
    good = np.delete(np.arange(len(block.lines)), wrong)
    return frame[good], block.keep(good)


def _odd_value(record: JsonObject, file: Path, row: int, columns: list[str]) -> InputError | None:
    for name in columns:
        if name in record.repeated:
            return InputError(
                "a key that stands twice", file=file, row=row, column=name, found="two values", expected="one"
            )
        if halved(record.get(name)):
            return InputError(HALF, file=file, row=row, column=name, found=ascii(record[name]), expected=WHOLE)
    return None


def _without_containers(
    frame: pl.DataFrame, block: Block, file: Path, columns: list[str], bad_rows: BadRows | None
) -> pl.DataFrame:
    """`frame` without the rows that hold a list or an object where a text is meant; a text may look like one."""
    if not columns:
        return frame
    suspect = frame.with_row_index("_place").filter(pl.any_horizontal(pl.col(columns).str.contains(_CONTAINER)))
    wrong = []
    for place in suspect["_place"]:
        row = int(block.lines[place])
        record = json_object(block.record(place), file, row)
        for name in columns:
            if isinstance(record.get(name), list | dict):
                if bad_rows is None:
                    found = "a list" if isinstance(record[name], list) else "an object"
                    raise InputError(
                        "not a single value", file=file, row=row, column=name, found=found,
                        expected="a text or a number",
                    )  # fmt: skip
                bad_rows.add(file, "rows with a list or an object for a value")
                wrong.append(row)
                break
    return frame.filter(~pl.col("_row").is_in(wrong)) if wrong else frame
