"""Parquet files, whose damage is a message and whose size is bounded by what they can hold."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from mdrec_jax.errors import InputError

MAX_ROWS_A_BYTE = 1000
"""Rows that a byte of a file may stand for; columns of one value repeated pack to a hundredth of that."""
_DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
_NOT_WHOLE = "is not a whole Parquet file"


def _lazy(file: Path) -> pl.LazyFrame:
    return pl.scan_parquet(file, glob=False, hive_partitioning=False, row_index_name="_row", row_index_offset=1)


def column_names(file: Path) -> list[str]:
    """The names of its columns.

    Raises:
        InputError: damaged, or says that it has more rows than it can hold.
    """
    try:
        names = list(pl.read_parquet_schema(file))
        rows = pl.scan_parquet(file, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
    except _DAMAGE as error:
        raise InputError(_NOT_WHOLE, file=file, found=error) from None
    most = MAX_ROWS_A_BYTE * file.stat().st_size
    if rows > most:
        raise InputError("more rows than the file can hold", file=file, found=f"{rows} rows", expected=f"<= {most}")
    return names


def scan(file: Path, columns: list[str]) -> pl.LazyFrame:
    """The named columns, and "_row" counting from 1; raises InputError when it is collected and the file is damaged."""
    try:
        schema = _lazy(file).select("_row", *columns).collect_schema()
    except _DAMAGE as error:
        raise InputError(_NOT_WHOLE, file=file, found=error) from None

    def frames(
        wanted: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        frame = _lazy(file).select(wanted if wanted is not None else list(schema))
        frame = frame.head(limit) if limit is not None else frame
        frame = frame.filter(predicate) if predicate is not None else frame
        try:
            yield from frame.collect_batches()
        except _DAMAGE as error:
            raise InputError(_NOT_WHOLE, file=file, found=error) from None

    return register_io_source(frames, schema=schema)  # type: ignore[arg-type]


def records(file: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(number from 1, record) one by one. Raises InputError where the file is damaged."""
    try:
        for frame in _lazy(file).collect_batches():
            for record in frame.iter_rows(named=True):
                yield record["_row"], record
    except _DAMAGE as error:
        raise InputError(_NOT_WHOLE, file=file, found=error) from None
