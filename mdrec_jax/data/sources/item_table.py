"""What a user's own table tells about items: id, title, category, and the domain where it says one."""

from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.columns import find_column, id_value
from mdrec_jax.data.sources.formats import ENDINGS, Format, column_names, scan, table_files
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError


def read_items(options: SourceOptions, domains: tuple[str, ...]) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Reads `options.items_file`: a row an item, in the format that its name ends in.

    A category written as text is a path with "|" between its levels. Without a domain column a row tells about the
    item of that id in every domain.

    Returns:
        (domain -> item, title, category, one frame for all domains where it tells of all; rows left out because an
        earlier one has the same id, counted).

    Raises:
        InputError: a missing column, an item without an id or a domain, a domain that the events do not have.
    """
    path = options.items_file
    assert path is not None
    kind = _format_of(path)
    frames = [_read_file(file, kind, options) for file in table_files(path, kind)]
    frame = pl.concat(frames)
    if "domain" not in frame.columns:
        once = _once(frame)
        result, repeated = dict.fromkeys(domains, once), len(frame) - len(once)
    else:
        own = {name: frame.filter(pl.col("domain") == name) for name in domains}
        result = {name: _once(rows) for name, rows in own.items()}
        repeated = sum(len(rows) - len(result[name]) for name, rows in own.items())
        strange = frame.filter(~pl.col("domain").is_in(list(domains)))
        if len(strange):
            found, expected = strange["domain"][0], "one of " + ", ".join(domains)
            raise InputError("unknown domain", file=path, row=int(strange["_row"][0]), found=found, expected=expected)
    return result, ({"rows of the item table with a repeated id": repeated} if repeated else {})


def _once(rows: pl.DataFrame) -> pl.DataFrame:
    """What the first row of each item tells."""
    return rows.unique("item", keep="first", maintain_order=True).select("item", "title", "category")


def _format_of(path: Path) -> Format:
    for kind, endings in ENDINGS.items():
        if path.name.lower().endswith(endings):
            return kind  # type: ignore[return-value]
    expected = "a name ending in " + " ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise InputError("unknown format of the item table", file=path, found=path.name, expected=expected)


def _read_file(file: Path, kind: Format, options: SourceOptions) -> pl.DataFrame:
    names = column_names(file, kind)
    item = find_column(names, options.item_id, "item", file, needed=True, flag="--item-id")
    title = find_column(names, options.title, "title", file, needed=False, flag="--title")
    category = find_column(names, options.category, "category", file, needed=False, flag="--category")
    domain = options.domain_column if options.domain_column in names else None
    columns = [name for name in dict.fromkeys((item, title, category, domain)) if name is not None]
    frame = scan(file, kind, columns)
    schema = frame.collect_schema()
    assert item is not None
    values = {"item": id_value(item, schema[item], file)}
    values["title"] = pl.col(title).cast(pl.String) if title else pl.lit(None, pl.String)
    values["category"] = _category(category, schema) if category else pl.lit(None, pl.List(pl.String))
    if domain is not None:
        values["domain"] = id_value(domain, schema[domain], file)
    table = frame.select("_row", **values).collect()
    for column, name, problem in (
        ("item", item, "an item without an id"),
        ("domain", domain, "an item without a domain"),
    ):
        if column in table.columns:
            empty = table.filter(pl.col(column).is_null() | (pl.col(column) == ""))
            if len(empty):
                row = int(empty["_row"][0])
                raise InputError(problem, file=file, row=row, column=name, found="nothing", expected="a value")
    return table


def _category(column: str, schema: pl.Schema) -> pl.Expr:
    if isinstance(schema[column], pl.List):
        return pl.col(column).cast(pl.List(pl.String))
    levels = pl.col(column).cast(pl.String).str.split("|")
    return levels.list.eval(pl.element().str.strip_chars())
