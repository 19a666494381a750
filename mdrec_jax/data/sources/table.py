"""Any CSV, TSV, Parquet or JSONL: one file, several, or a folder such as Spark or BigQuery writes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import find_column, id_value, rating_value
from mdrec_jax.data.sources.formats import FORMS, Format, column_names, partition_values, record_at, scan, table_files
from mdrec_jax.data.sources.item_table import read_items
from mdrec_jax.data.sources.rawlog import MAX_NAME_BYTES, RawLog, SourceOptions
from mdrec_jax.data.sources.textform import TextForm
from mdrec_jax.data.sources.times import NO_TIME, bad_time, time_values, unit_of, unused_times
from mdrec_jax.errors import InputError

ONLY_DOMAIN = "main"
"""The domain of a table that names none."""
ONLY_EVENT = "event"
ROW_BITS = 40
"""`order` is the file's number shifted by this, plus the row that the record begins in."""
CORE = 5
_ROLES = {"train": 0, "validation": 1, "test": 2}

type Named = tuple[str | None, Path, str | None]
"""A file or folder: its domain, and its part (train, validation, test) of a split made elsewhere; None = not said."""


@dataclass(frozen=True)
class TablePart:
    """One file of a table: where it is, its domain when that is not a column, the columns that it has, the values that
    stand in its path instead, the unit of its times."""

    file: Path
    domain: str | None
    columns: dict[str, str]
    fixed: dict[str, str]
    form: TextForm | None
    role: int | None
    unit: str


def read_csv(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Comma-separated text with a header; quotes as in RFC 4180; plain or gzip. Raises InputError."""
    return _read("csv", paths, options)


def read_tsv(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Tab-separated text with a header, without quoting; plain or gzip. Raises InputError."""
    return _read("tsv", paths, options)


def read_parquet(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Parquet files. Raises InputError."""
    return _read("parquet", paths, options)


def read_jsonl(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """A JSON object a line; plain or gzip. Raises InputError."""
    return _read("jsonl", paths, options)


def _read(kind: Format, paths: Sequence[Path], options: SourceOptions) -> RawLog:
    return read_named(kind, _named(paths, options), options)


def read_named(kind: Format, named: Sequence[Named], options: SourceOptions) -> RawLog:
    """Reads files whose domains and parts are known; of the options those about columns and rows, and the items.

    Raises:
        InputError: as `read_csv` and its like.
    """
    bad_rows = BadRows() if options.skip_bad_rows else None
    form = _form(kind, options)
    parts = [
        _part(file, path, kind, domain, options, form, None if part is None else _ROLES[part], bad_rows)
        for domain, path, part in named
        for file in table_files(path, kind)
    ]
    given = any(part is not None for _, _, part in named)
    has_time = "time" in parts[0].columns or "time" in parts[0].fixed
    for part in parts[1:]:
        if part.columns.keys() | part.fixed.keys() != parts[0].columns.keys() | parts[0].fixed.keys():
            expected = ", ".join([*parts[0].columns, *parts[0].fixed]) + f", as in {parts[0].file.name}"
            found = ", ".join([*part.columns, *part.fixed])
            raise InputError("other columns than in the first file", file=part.file, found=found, expected=expected)
    events = pl.concat([_events(part, number, kind, bad_rows) for number, part in enumerate(parts)])
    domains = tuple(dict.fromkeys(domain for domain, _, _ in named if domain is not None))
    if not domains and "domain" not in parts[0].columns and "domain" not in parts[0].fixed:
        domains = (ONLY_DOMAIN,)
    files = tuple(part.file for part in parts)
    items, dropped = {}, {}
    if options.items_file is not None:
        names = domains or tuple(events.select(pl.col("domain").unique()).collect()["domain"].drop_nulls().sort())
        items, dropped = read_items(options.items_file, options, names)
        files += (options.items_file,)
    return RawLog(
        events=events,
        has_time=has_time,
        ordered=True,
        files=files,
        items=items,
        items_across="separate",
        dropped=dropped,
        domains=domains,
        default_split="given" if given else "loo",
        min_user=1 if given else CORE,
        min_item=1 if given else CORE,
        bad_rows=bad_rows,
        locate=lambda order, column: _locate(parts, kind, order, column, skip=options.skip_bad_rows),
    )


def _named(paths: Sequence[Path], options: SourceOptions) -> list[Named]:
    if options.given and (paths or options.domains):
        found = ", ".join(str(path) for path in paths) or "--domain"
        raise InputError("give either --train-file and its like, or other files", found=found)
    if options.domains and paths:
        raise InputError("give either paths or --domain NAME=PATH", found=", ".join(str(path) for path in paths))
    if options.domains and options.domain_column:
        raise InputError("give either --domain NAME=PATH or --domain-column", found=options.domain_column)
    named: list[Named] = [(name, path, None) for name, path in options.domains]
    named += [(None, path, None) for path in paths]
    named += [(None, path, part) for part, path in options.given]
    if not named:
        raise InputError("no input", expected="a path, or --domain NAME=PATH")
    for place, (name, _) in enumerate(options.domains):
        if name == "" or name in [other for other, _ in options.domains[:place]]:
            raise InputError("a domain's name is empty or given twice", column="--domain", found=name)
    return named


def _form(kind: Format, options: SourceOptions) -> TextForm | None:
    """How a text table is written; None for Parquet."""
    if kind in ("parquet", "jsonl"):
        options.refuse(kind, "no_header", "separator")
        return FORMS.get(kind)
    separator = options.separator or FORMS[kind].separator
    if separator is None or len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
        raise InputError("not a separator", column="--separator", found=separator, expected="one character, such as ;")
    return replace(FORMS[kind], separator=separator, header=not options.no_header)


def _part(
    file: Path,
    root: Path,
    kind: Format,
    domain: str | None,
    options: SourceOptions,
    form: TextForm | None,
    role: int | None,
    bad_rows: BadRows | None,
) -> TablePart:
    names, fixed = column_names(file, kind, form, skip=bad_rows is not None), partition_values(file, root)
    everything = [*names, *(name for name in fixed if name not in names)]
    chosen: dict[str, str] = {}
    for what in ("user", "item", "time", "domain", "event", "rating"):
        if what == "domain" and domain is not None:
            continue
        asked = getattr(options, f"{what}_column")
        if what == "time" and asked == NO_TIME and NO_TIME not in everything:
            continue
        column = find_column(everything, asked, what, file, needed=what in ("user", "item"))
        if column is not None:
            chosen[what] = column
    if "time" not in chosen and options.time_column is None:
        others = [name for name in names if name not in chosen.values()]
        unused = unused_times(file, kind, others, form) or next(
            (name for name in fixed if re.search("date|time", name)), None
        )
        if unused is not None:
            raise InputError(
                "looks like times and is not used",
                file=file,
                row=1,
                column=unused,
                expected="the column of times, said by name",
                hint=f"--time-column {unused}, or --time-column {NO_TIME} where rows are in the order of events",
            )
    unit = options.time_unit or "s"
    if "time" in chosen:
        in_file = chosen["time"] in names
        unit = options.time_unit or "iso"
        if in_file:
            unit = unit_of(file, kind, chosen["time"], options.time_unit, form=form, bad_rows=bad_rows)
    return TablePart(
        file=file,
        domain=domain,
        columns={what: column for what, column in chosen.items() if column in names},
        fixed={what: fixed[column] for what, column in chosen.items() if column not in names},
        unit=unit,
        form=form,
        role=role,
    )


def _events(part: TablePart, number: int, kind: Format, bad_rows: BadRows | None) -> pl.LazyFrame:
    columns = list(dict.fromkeys(part.columns.values()))
    frame = scan(part.file, kind, columns, form=part.form, bad_rows=bad_rows)
    schema = frame.collect_schema()
    values = {}
    for what, column in part.columns.items():
        if what == "time":
            values["time"], values["fraction"] = time_values(column, schema[column], part.unit, part.file)
        elif what == "rating":
            values[what] = rating_value(column, schema[column], part.file)
        else:
            values[what] = id_value(column, schema[column], part.file)
    values.update({what: pl.lit(value) for what, value in part.fixed.items()})
    if "time" in part.fixed:
        frame = frame.with_columns(_time=pl.lit(part.fixed["time"]))
        values["time"], values["fraction"] = time_values("_time", pl.String(), part.unit, part.file)
    values.setdefault("domain", pl.lit(part.domain or ONLY_DOMAIN))
    values.setdefault("event", pl.lit(ONLY_EVENT))
    if part.role is not None:
        values["role"] = pl.lit(part.role, pl.Int8)
    values["order"] = pl.col("_row").cast(pl.Int64) + (number << ROW_BITS)
    return frame.select(**{name: values[name] for name in sorted(values)})


def _locate(parts: list[TablePart], kind: Format, order: int, column: str, *, skip: bool) -> InputError:
    """The error for a bad value, found again by reading its file record by record."""
    part, row = parts[order >> ROW_BITS], order & ((1 << ROW_BITS) - 1)
    name = part.columns.get(column, column)
    record = record_at(part.file, kind, row, part.form, skip=skip)
    value = record.get(name, part.fixed.get(column))
    text = "" if value is None else str(value)
    if kind in ("csv", "tsv") and column in part.columns and name not in record:
        found, expected = f"{len(record)} fields", f"a field for '{name}', as in the header"
        return InputError("too few fields", file=part.file, row=row, column=name, found=found, expected=expected)
    what = {"item": "an item's id", "user": "a user's id", "domain": "a domain's name"}.get(column, f"a {column}")
    if not text.strip() or (isinstance(value, float) and math.isnan(value)):
        problem = "an item without a domain" if column == "domain" else "missing value"
        return InputError(problem, file=part.file, row=row, column=name, found="nothing", expected=what)
    if column == "time" and column in part.columns:
        return bad_time(part.file, kind, name, row, text, part.unit, form=part.form, skip=skip)
    if column == "rating":
        expected = "a number, 0 or more"
        problem = "unparsable number" if not _is_number(text) else "negative, NaN or infinite value"
        return InputError(problem, file=part.file, row=row, column=name, found=text, expected=expected)
    problem, found = "unusable value", text
    if isinstance(value, float):
        problem, what = "ids of a wrong type", "text or whole numbers"
    elif len(text.encode()) > MAX_NAME_BYTES:
        problem, found, what = "too long a name", f"{len(text.encode())} bytes", f"at most {MAX_NAME_BYTES} bytes"
    return InputError(problem, file=part.file, row=row, column=name, found=found, expected=what)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
