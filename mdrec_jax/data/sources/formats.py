"""The four formats of a table: which files of a folder belong to it, their columns, a lazy scan, a slow second look."""

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import polars as pl

from mdrec_jax.data.sources.reading import GZIP_MAGIC, check_gzip, require_file
from mdrec_jax.errors import InputError

type Format = Literal["csv", "tsv", "parquet", "jsonl"]

ENDINGS: dict[str, tuple[str, ...]] = {
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tsv.gz", ".tab", ".tab.gz"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".ndjson.gz"),
}
MAX_TABLE_BYTES = 1 << 40
"""The most that a compressed table may unpack to; it streams, so this only stops what never ends."""
KEY_LINES = 100
"""Lines of a JSONL file that are looked at to learn its keys."""


def table_files(path: Path, kind: Format) -> list[Path]:
    """The files of a table: `path` itself, or every file of the format below it, sorted.

    Files and folders whose names start with "_" or "." are the marks that Spark and others leave; they are no data.

    Raises:
        InputError: missing, empty or damaged, or a folder without such files.
    """
    if not path.is_dir():
        files = [require_file(path, f"a {kind} file or a folder of them")]
    else:
        inside = (file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS[kind]))
        files = sorted(file for file in inside if not any(part[0] in "._" for part in file.relative_to(path).parts))
        if not files:
            expected = "files ending in " + " ".join(ENDINGS[kind])
            raise InputError("the folder holds no such files", file=path, expected=expected)
        # a part file without rows is usual in a written folder, a file without bytes is not
        for file in files:
            require_file(file)
    if kind != "parquet":
        for file in files:
            if _is_gzip(file) and check_gzip(file, limit=MAX_TABLE_BYTES) == 0:
                raise InputError("the file is empty", file=file, found="0 bytes unpacked", expected=f"a {kind} file")
    return files


def partition_values(file: Path, root: Path) -> dict[str, str]:
    """The columns that stand in a file's path as folders `name=value` below `root`."""
    parts = file.relative_to(root).parts[:-1] if file != root else ()
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == GZIP_MAGIC


def _open_text(file: Path) -> IO[str]:
    binary = gzip.open(file, "rb") if _is_gzip(file) else file.open("rb")  # noqa: SIM115 (the wrapper closes it)
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")  # type: ignore[arg-type]


def _csv_reader(stream: IO[str], kind: Format):
    if kind == "csv":
        return csv.reader(stream)
    return csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)


def column_names(file: Path, kind: Format) -> list[str]:
    """The names of a table's columns.

    Raises:
        InputError: a header with a name twice, or a file that is not of this format.
    """
    if kind == "parquet":
        try:
            return list(pl.read_parquet_schema(file))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError("is not a whole Parquet file", file=file, found=error) from None
    try:
        with _open_text(file) as stream:
            if kind == "jsonl":
                return _json_keys(stream, file)
            names = next(_csv_reader(stream, kind), [])
    except UnicodeDecodeError as error:
        raise InputError("text cannot be decoded", file=file, row=1, found=error, expected="UTF-8") from None
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError("duplicate column in the header", file=file, row=1, column=name, found=", ".join(names))
    return names


def _json_keys(stream: IO[str], file: Path) -> list[str]:
    keys: dict[str, None] = {}
    for row, line in enumerate(itertools.islice(stream, KEY_LINES), 1):
        if line.strip():
            keys.update(dict.fromkeys(_json_object(line, file, row)))
    return list(keys)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _json_object(line: str, file: Path, row: int) -> dict:
    # a line may name a person: messages say where it is wrong, not what it holds
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError("is not JSON", file=file, row=row, found=error, expected="{...} in every line") from None
    if not isinstance(value, dict):
        found = f"a {type(value).__name__}"
        raise InputError("not a JSON object", file=file, row=row, found=found, expected="{...} in every line")
    return value


def scan(file: Path, kind: Format, columns: list[str]) -> pl.LazyFrame:
    """The named columns of a file, lazily, with "_row" counting its records from 0.

    Text formats give String columns, Parquet what it holds.
    """
    if kind == "parquet":
        frame = pl.scan_parquet(file, glob=False, hive_partitioning=False, row_index_name="_row")
    elif kind == "jsonl":
        frame = pl.scan_ndjson(file, schema=dict.fromkeys(columns, pl.String), row_index_name="_row")
    else:
        frame = pl.scan_csv(
            file,
            infer_schema=False,
            separator="," if kind == "csv" else "\t",
            quote_char='"' if kind == "csv" else None,
            row_index_name="_row",
            glob=False,
        )
    return frame.select("_row", *columns)


def records(file: Path, kind: Format) -> Iterator[tuple[int, dict[str, object]]]:
    """(row, record) one by one, counted as `scan` counts them; slow, for errors.

    Rows are lines for text (the header is line 1), records from 1 for Parquet.

    Raises:
        InputError: the first record that does not have the header's fields or is not JSON; text that is not UTF-8.
    """
    if kind == "parquet":
        for row, record in enumerate(pl.read_parquet(file).iter_rows(named=True), 1):
            yield row, record
        return
    row = 0
    try:
        with _open_text(file) as stream:
            if kind == "jsonl":
                for row, line in enumerate(stream, 1):
                    if line.strip():
                        yield row, _json_object(line, file, row)
                return
            reader = _csv_reader(stream, kind)
            names = next(reader, [])
            for values in reader:
                row = reader.line_num
                if len(values) > len(names):
                    expected = f"{len(names)} fields, as in the header"
                    raise InputError(
                        "too many fields", file=file, row=row, found=f"{len(values)} fields", expected=expected
                    )
                yield row, dict(zip(names, values, strict=False))
    except UnicodeDecodeError as error:
        raise InputError("text cannot be decoded", file=file, row=row + 1, found=error, expected="UTF-8") from None


def record_at(file: Path, kind: Format, place: int) -> tuple[int, dict[str, object]]:
    """(row, record) number `place` of those that `scan` counts from 0.

    Raises:
        InputError: as `records`.
    """
    return next(itertools.islice(records(file, kind), place, None), (place + 1, {}))
