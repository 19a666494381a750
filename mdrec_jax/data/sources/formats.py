"""The four formats of a table: which files of a folder belong to it, their columns, a lazy scan, a slow second look."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import polars as pl
from polars.io.plugins import register_io_source

from mdrec_jax.data.sources import parquet
from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.blocks import Block, blocks, first_record
from mdrec_jax.data.sources.compression import MAX_RECORD, PACKED_ENDINGS
from mdrec_jax.data.sources.jsonlines import json_object, parse_json
from mdrec_jax.data.sources.reading import require_file
from mdrec_jax.data.sources.textform import TextForm
from mdrec_jax.errors import InputError

type Format = Literal["csv", "tsv", "parquet", "jsonl"]

_PLAIN_ENDINGS: dict[Format, tuple[str, ...]] = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
}
ENDINGS: dict[Format, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    **{
        kind: (*plain, *(ending + packed for ending in plain for packed in PACKED_ENDINGS))
        for kind, plain in _PLAIN_ENDINGS.items()
    },
}
FORMS = {"csv": TextForm(",", quoted=True), "tsv": TextForm("\t", quoted=False), "jsonl": TextForm(None, quoted=False)}
"""How each text format is written when the user says nothing else."""
KEY_LINES = 100
"""Lines of a JSONL file that are looked at to learn its keys."""
MAX_COLUMNS = 100_000
csv.field_size_limit(MAX_RECORD)


def table_files(path: Path, kind: Format) -> list[Path]:
    """The files of a table: `path` itself, or every file of the format below it, sorted.

    Files and folders whose names start with "_" or "." are the marks that Spark and others leave; they are no data.

    Raises:
        InputError: missing, empty or damaged, or a folder without such files.
    """
    if not path.is_dir():
        return [require_file(path, f"a {kind} file or a folder of them")]
    inside = (file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS[kind]))
    files = sorted(file for file in inside if not any(part[0] in "._" for part in file.relative_to(path).parts))
    if not files:
        expected = "files ending in " + " ".join(ENDINGS[kind])
        raise InputError("the folder holds no such files", file=path, expected=expected)
    # a part file without rows is usual in a written folder, a file without bytes is not
    for file in files:
        require_file(file)
    return files


def format_of(path: Path, what: str, *, also: str = "") -> Format:
    """The format that a file's name ends in. Where it ends in none's an InputError names `what`, and `also` allows."""
    for kind, endings in ENDINGS.items():
        if path.name.lower().endswith(endings):
            return kind
    expected = "a name ending in " + " ".join(ending for endings in ENDINGS.values() for ending in endings) + also
    raise InputError(f"unknown format of {what}", file=path, found=path.name, expected=expected)


def partition_values(file: Path, root: Path) -> dict[str, str]:
    """The columns that stand in a file's path as folders `name=value` below `root`.

    Raises:
        InputError: one of them stands there twice.
    """
    parts = file.relative_to(root).parts[:-1] if file != root else ()
    pairs = [part.split("=", 1) for part in parts if "=" in part]
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise InputError("a column that stands twice in the path", file=file, column=twice, expected="one folder")
    return values


def column_names(file: Path, kind: Format, form: TextForm | None = None, *, skip: bool = False) -> list[str]:
    """The names of a table's columns; those of a table without a header are 1, 2, 3, ...

    Args:
        skip: lines of JSON that cannot be read say nothing about keys; else the first is an error.

    Raises:
        InputError: a header with a name twice, or a file that is not of this format.
    """
    if kind == "parquet":
        return parquet.column_names(file)
    form = form or FORMS[kind]
    if kind == "jsonl":
        return _json_keys(file, form, skip=skip)
    header = first_record(file, form)
    if header is None:
        raise InputError("the file is empty", file=file, found="no line with text", expected=f"a {kind} file")
    names = next(_parsed(Block.of(header), form, file))
    if len(names) > MAX_COLUMNS:
        raise InputError(
            "too many columns", file=file, row=1, found=f"{len(names)} columns", expected=f"at most {MAX_COLUMNS}"
        )
    if not form.header:
        return [str(number) for number in range(1, len(names) + 1)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError("duplicate column in the header", file=file, row=1, column=name, found=", ".join(names))
        seen.add(name)
    return names


def _json_keys(file: Path, form: TextForm, *, skip: bool) -> list[str]:
    block = next(blocks(file, form), None)
    if block is None:
        raise InputError("the file is empty", file=file, found="no line with text", expected="a jsonl file")
    keys: dict[str, None] = {}
    for number, line in enumerate(block.lines[:KEY_LINES]):
        try:
            keys.update(dict.fromkeys(json_object(block.record(number), file, int(line))))
        except InputError:
            if not skip:
                raise
    return list(keys)


def scan(
    file: Path,
    kind: Format,
    columns: list[str],
    *,
    form: TextForm | None = None,
    bad_rows: BadRows | None = None,
    types: Mapping[str, pl.DataType] | None = None,
    lists: bool = False,
) -> pl.LazyFrame:
    """The named columns of a file, lazily, with "_row": the line that a record begins in, its number for Parquet.

    Text formats give String columns, Parquet what it holds. Every record of the file is a row of the frame, or is
    counted in `bad_rows`, or is an InputError when the frame is collected.

    Args:
        form: how a text table is written; None = as usual for its format.
        bad_rows: None = the first record that cannot be read is an error.
        types: of columns of a JSONL file that are no plain values.
        lists: lists and objects of a JSONL file are given as text; else they are bad rows.
    """
    if kind == "parquet":
        return parquet.scan(file, columns)
    schema: dict[str, pl.DataType] = {"_row": pl.Int64(), **dict.fromkeys(columns, pl.String()), **(types or {})}
    form = form or FORMS[kind]

    def frames(
        wanted: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        if bad_rows is not None:
            bad_rows.restart(file)
        names = column_names(file, kind, form) if kind != "jsonl" else []
        for number, block in enumerate(blocks(file, form, bad_rows)):
            if number == 0 and kind != "jsonl" and form.header:
                block = block.behind(1)
            if kind == "jsonl":
                frame = parse_json(block, file, schema, bad_rows, lists=lists)
            else:
                frame = _parse(block, form, file, names, columns, bad_rows)
            frame = frame.select(wanted) if wanted is not None else frame
            frame = frame.head(limit) if limit is not None else frame
            limit = limit - len(frame) if limit is not None else None
            yield frame.filter(predicate) if predicate is not None else frame
            if limit == 0:
                return

    return register_io_source(frames, schema=schema)  # type: ignore[arg-type]


def _parse(
    block: Block, form: TextForm, file: Path, names: list[str], columns: list[str], bad_rows: BadRows | None
) -> pl.DataFrame:
    """The columns of a block as text. Its rows are counted: the parser has to find as many as there are records."""
    try:
        frame = _parse_fast(block, form, names, columns)
    except pl.exceptions.PolarsError as error:
        block = _decodable(block, file, bad_rows)
        try:
            frame = _parse_fast(block, form, names, columns)
        except pl.exceptions.PolarsError:
            raise InputError("the table cannot be read", file=file, row=_first(block), found=error) from error
    if len(frame) != len(block.lines):  # a parser that splits its input for threads may lose its way among quotes
        rows = list(_parsed(block, form, file))
        if len(rows) != len(block.lines):
            found = f"{len(rows)} rows in {len(block.lines)} records"
            raise InputError("rows that cannot be told apart", file=file, row=_first(block), found=found)
        places = [names.index(name) for name in columns]
        frame = pl.DataFrame(
            [[row[place] if place < len(row) else None for place in places] for row in rows],
            schema=dict.fromkeys(columns, pl.String), orient="row",
        )  # fmt: skip
    return frame.select(pl.Series("_row", block.lines), *columns)


def _parse_fast(block: Block, form: TextForm, names: list[str], columns: list[str]) -> pl.DataFrame:
    place = {name: number for number, name in enumerate(names)}
    wanted = sorted(columns, key=place.__getitem__)
    frame = pl.read_csv(
        block.data,
        has_header=False,
        schema={f"column_{number}": pl.String for number in range(len(names))},
        columns=[place[name] for name in wanted],
        separator=form.separator or "\n",
        quote_char='"' if form.quoted else None,
        missing_columns="insert",
        extra_columns="ignore",
        raise_if_empty=False,
    )
    return frame.rename(dict(zip(frame.columns, wanted, strict=True)))


def _first(block: Block) -> int | None:
    return int(block.lines[0]) if len(block.lines) else None


def _decodable(block: Block, file: Path, bad_rows: BadRows | None) -> Block:
    """The records that are UTF-8. Raises InputError at the first that is not, where none may be left out."""
    good = []
    for number, line in enumerate(block.lines):
        try:
            block.record(number).decode()
        except UnicodeDecodeError as error:
            if bad_rows is None:
                found = block.record(number)[error.start : error.start + 8]
                raise InputError(
                    "text cannot be decoded", file=file, row=int(line), found=found, expected="UTF-8",
                    hint="convert it first: iconv -f latin1 -t utf8 FILE",
                ) from None  # fmt: skip
            bad_rows.add(file, "rows that are not UTF-8")
        else:
            good.append(number)
    return block.keep(good)


def _parsed(block: Block, form: TextForm, file: Path) -> Iterator[list[str]]:
    """The fields of each record, by the standard library."""
    _decodable(block, file, None)
    text = io.StringIO(block.data.decode(), newline="")
    quoting = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    return csv.reader(text, delimiter=form.separator or "\n", quoting=quoting)


def records(
    file: Path, kind: Format, form: TextForm | None = None, *, skip: bool = False
) -> Iterator[tuple[int, dict[str, object]]]:
    """(row, record) one by one, rows as `scan` gives them; slow, for errors.

    Args:
        skip: records that cannot be read are left out.

    Raises:
        InputError: the first record that cannot be read.
    """
    if kind == "parquet":
        yield from parquet.records(file)
        return
    form = form or FORMS[kind]
    names = column_names(file, kind, form, skip=skip)
    bad_rows = BadRows() if skip else None
    for number, block in enumerate(blocks(file, form, bad_rows)):
        if kind == "jsonl":
            for place, line in enumerate(block.lines):
                try:
                    yield int(line), json_object(block.record(place), file, int(line))
                except InputError:
                    if not skip:
                        raise
            continue
        block = _decodable(block, file, bad_rows)
        rows = _parsed(block, form, file)
        for place, (line, values) in enumerate(zip(block.lines, rows, strict=True)):
            if number or place or not form.header:
                yield int(line), dict(zip(names, values, strict=False))


def record_at(
    file: Path, kind: Format, row: int, form: TextForm | None = None, *, skip: bool = False
) -> dict[str, object]:
    """The record of row `row`, as `scan` counts them; `skip` as of `records`."""
    return next((record for line, record in records(file, kind, form, skip=skip) if line >= row), {})
