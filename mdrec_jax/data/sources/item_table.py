"""What a user's own table tells about items: id, title, category, and the domain where it says one."""

from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import find_column, id_value
from mdrec_jax.data.sources.formats import Format, column_names, format_of, scan, table_files
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError

OF_ITEMS = "of the item table"


def read_items(
    path: Path, options: SourceOptions, domains: tuple[str, ...]
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Reads a table of items: a row an item, in the format that its name ends in.

    A category written as text is a path with "|" between its levels. Without a domain column a row tells about the
    item of that id in every domain.

    Returns:
        (domain -> item, title, category, one frame for all domains where it tells of all; rows left out, by reason:
        because an earlier one has the same id, and those that cannot be used where they may be skipped).

    Raises:
        InputError: a missing column, an item without an id or a domain, a domain that the events do not have.
    """
    kind, bad_rows = format_of(path, "the item table"), BadRows() if options.skip_bad_rows else None
    frames = [_read_file(file, kind, options, bad_rows, domains) for file in table_files(path, kind)]
    frame = pl.concat(frames)
    if "domain" not in frame.columns:
        once = _once(frame)
        result, repeated = dict.fromkeys(domains, once), len(frame) - len(once)
    else:
        own = {name: frame.filter(pl.col("domain") == name) for name in domains}
        result = {name: _once(rows) for name, rows in own.items()}
        repeated = sum(len(rows) - len(result[name]) for name, rows in own.items())
    left_out = bad_rows.by_reason(OF_ITEMS) if bad_rows is not None else {}
    return result, left_out | ({f"rows {OF_ITEMS} with a repeated id": repeated} if repeated else {})


def with_values(
    table: pl.DataFrame, column: str, file: Path, bad_rows: BadRows | None, *, name: str, what: str
) -> pl.DataFrame:
    """The rows of items that have something in a column.

    Args:
        table: with "_row".
        bad_rows: counts the others; None = the first of them is an error.
        name: of the column in the file.
        what: the value, in words: "an id".

    Raises:
        InputError: an empty value.
    """
    empty = pl.col(column).is_null() | (pl.col(column) == "")
    without = table.filter(empty)
    if without.is_empty():
        return table
    if bad_rows is None:
        row = int(without["_row"][0])
        problem = f"an item without {what}"
        raise InputError(problem, file=file, row=row, column=name, found="nothing", expected="a value")
    bad_rows.add(file, f"rows without a usable {column}", len(without))
    return table.filter(~empty)


def _once(rows: pl.DataFrame) -> pl.DataFrame:
    """What the first row of each item tells."""
    return rows.unique("item", keep="first", maintain_order=True).select("item", "title", "category")


def _read_file(
    file: Path, kind: Format, options: SourceOptions, bad_rows: BadRows | None, domains: tuple[str, ...]
) -> pl.DataFrame:
    names = column_names(file, kind, skip=bad_rows is not None)
    item = find_column(names, options.item_id, "item", file, needed=True, flag="--item-id")
    title = find_column(names, options.title, "title", file, needed=False, flag="--title")
    category = find_column(names, options.category, "category", file, needed=False, flag="--category")
    domain = options.domain_column if options.domain_column in names else None
    columns = [name for name in dict.fromkeys((item, title, category, domain)) if name is not None]
    frame = scan(file, kind, columns, bad_rows=bad_rows)
    schema = frame.collect_schema()
    assert item is not None
    values = {"item": id_value(item, schema[item], file)}
    values["title"] = pl.col(title).cast(pl.String) if title else pl.lit(None, pl.String)
    values["category"] = _category(category, schema) if category else pl.lit(None, pl.List(pl.String))
    if domain is not None:
        values["domain"] = id_value(domain, schema[domain], file)
    table = frame.select("_row", **values).collect()
    table = with_values(table, "item", file, bad_rows, name=item, what="an id")
    if domain is not None:
        table = with_values(table, "domain", file, bad_rows, name=domain, what="a domain")
        table = _of_domains(table, domain, file, bad_rows, domains)
    return table


def _of_domains(
    table: pl.DataFrame, name: str, file: Path, bad_rows: BadRows | None, domains: tuple[str, ...]
) -> pl.DataFrame:
    """The rows about domains that the events have."""
    known = pl.col("domain").is_in(list(domains))
    strange = table.filter(~known)
    if strange.is_empty():
        return table
    if bad_rows is None:
        row, found, expected = int(strange["_row"][0]), strange["domain"][0], "one of " + ", ".join(domains)
        raise InputError("unknown domain", file=file, row=row, column=name, found=found, expected=expected)
    bad_rows.add(file, "rows about a domain without events", len(strange))
    return table.filter(known)


def _category(column: str, schema: pl.Schema) -> pl.Expr:
    if isinstance(schema[column], pl.List):
        return pl.col(column).cast(pl.List(pl.String))
    levels = pl.col(column).cast(pl.String).str.split("|")
    return levels.list.eval(pl.element().str.strip_chars())
