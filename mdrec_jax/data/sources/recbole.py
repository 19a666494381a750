"""RecBole's atomic files: `NAME.inter` (and `NAME.item`), tab-separated, with `field:type` in the header.

Types are token, token_seq (values with spaces between them), float and float_seq. The usual fields `user_id`,
`item_id`, `rating` and `timestamp` are found by name; others are named by the options, with or without their type.
Several `.inter` files are several domains, whose equal ids are one user and one item (`--items-across separate` if
not). A file without a timestamp has no order. Source: Zhao et al., "RecBole" (CIKM 2021).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import id_value
from mdrec_jax.data.sources.formats import column_names, scan
from mdrec_jax.data.sources.item_table import with_values
from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, require_file
from mdrec_jax.data.sources.table import read_tsv
from mdrec_jax.data.sources.times import NO_TIME
from mdrec_jax.errors import InputError

_TYPES = ("token", "token_seq", "float", "float_seq")
_USUAL = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
_WANTED = {"user": "token", "item": "token", "rating": "float", "time": "float", "domain": "token", "event": "token"}
_TITLES = ("title", "movie_title", "name", "item_name")
_CATEGORIES = ("categories", "category")
_SPLIT_FILES = (".train.inter", ".valid.inter", ".test.inter")
_EVENT = "interaction"


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads the `.inter` files that are given or lie in the given folders.

    Raises:
        InputError: no such file, a header without types, a missing field, or a malformed line.
    """
    options.refuse("recbole", "items_file", "no_header", "separator", "given")
    files = _inter_files(paths, options)
    first = next(iter(files.values()))
    columns = {what: _column(first, what, getattr(options, f"{what}_column")) for what in _WANTED}
    for path in files.values():
        for what, column in columns.items():
            if column is not None and _field(path, column.split(":")[0], what) is None:
                raise InputError("missing field", file=path, row=1, column=column, expected=f"as in {first.name}")
    by_column = columns["domain"] is not None
    table = SourceOptions(
        user_column=columns["user"],
        item_column=columns["item"],
        time_column=columns["time"] or NO_TIME,
        rating_column=columns["rating"],
        domain_column=columns["domain"],
        event_column=columns["event"],
        domains=() if by_column else tuple(files.items()),
        time_unit=options.time_unit,
        skip_bad_rows=options.skip_bad_rows,
    )
    log = read_tsv([*files.values()] if by_column else [], table)
    if columns["event"] is None:
        log = replace(log, events=log.events.with_columns(pl.lit(_EVENT).alias("event")), event_types=(_EVENT,))
    items, item_files, left_out = _items(files, options, log, by_column=by_column)
    return replace(
        log,
        ordered=log.has_time,
        files=(*log.files, *item_files),
        items=items,
        items_across="shared",
        dropped=left_out,
        min_user=1,
        min_item=1,
    )


def _inter_files(paths: Sequence[Path], options: SourceOptions) -> dict[str, Path]:
    """Domain -> its file."""
    named: list[tuple[str | None, Path]] = [*options.domains, *((None, path) for path in paths)]
    found: dict[str, Path] = {}
    for name, path in named:
        inside = [path]
        if path.is_dir():
            stems = sorted({file.name.removesuffix(".gz") for file in path.glob("*.inter*")})
            inside = [find_in(path, stem) for stem in stems if stem.endswith(".inter")]
        if name is not None and len(inside) > 1:
            raise InputError("several files for one domain", file=path, found=[file.name for file in inside])
        for file in inside:
            require_file(file, "a file NAME.inter")
            stem = file.name.removesuffix(".gz")
            domain = name or stem.removesuffix(".inter")
            if stem.endswith(_SPLIT_FILES):
                hint = "merge the three files: the split is chosen with --split"
                raise InputError("a file of a split made elsewhere", file=file, expected="NAME.inter", hint=hint)
            if domain in found or not stem.endswith(".inter"):
                problem = "a domain given twice" if domain in found else "not an .inter file"
                raise InputError(problem, file=file, found=domain, expected="NAME.inter, a NAME each")
            found[domain] = file
    if not found:
        where = paths[0] if paths else None
        raise InputError("no .inter file", file=where, expected="files NAME.inter, plain or .gz")
    return found


def _fields(path: Path) -> dict[str, str]:
    """Name -> type of the fields in a header."""
    names = column_names(path, "tsv")
    parts = [name.rpartition(":") for name in names]
    fields = {name: kind for name, _, kind in parts}
    for name, kind in fields.items():
        if not name or kind not in _TYPES:
            expected = "field:type with a type of " + ", ".join(_TYPES)
            raise InputError("wrong header", file=path, row=1, found=f"{name}:{kind}".lstrip(":"), expected=expected)
    return fields


def _field(path: Path, name: str, what: str) -> str | None:
    kind = _fields(path).get(name)
    if kind is None:
        return None
    if kind != _WANTED[what]:
        raise InputError("field of a wrong type", file=path, row=1, column=name, found=kind, expected=_WANTED[what])
    return f"{name}:{kind}"


def _column(path: Path, what: str, asked: str | None) -> str | None:
    """The full header name of the field that is the `what`."""
    name = asked.split(":")[0] if asked else _USUAL.get(what)
    column = _field(path, name, what) if name else None
    if column is None and (asked or what in ("user", "item")):
        found = ", ".join(_fields(path))
        raise InputError(
            "missing field", file=path, row=1, column=name, found=found, expected=f"or --{what}-column NAME"
        )
    return column


def _items(
    files: dict[str, Path], options: SourceOptions, log: RawLog, *, by_column: bool
) -> tuple[dict[str, pl.DataFrame], list[Path], dict[str, int]]:
    """The `.item` file beside each `.inter` file: (domain -> items, files read, rows left out by reason)."""
    frames: dict[str, pl.DataFrame] = {}
    read_files, repeated = [], 0
    bad_rows = BadRows() if options.skip_bad_rows else None
    for domain, inter in files.items():
        path = find_in(inter.parent, inter.name.removesuffix(".gz").removesuffix(".inter") + ".item", optional=True)
        if path is None:
            continue
        frame = _item_frame(path, options, bad_rows)
        frames[domain] = frame.unique("item", keep="first", maintain_order=True)
        repeated += frame.height - frames[domain].height
        read_files.append(path)
    if by_column and frames:  # what is known of an item holds in every domain that it occurs in
        frame = pl.concat(frames.values()).unique("item", keep="first", maintain_order=True)
        names = log.events.select(pl.col("domain").unique()).collect()["domain"].drop_nulls().sort()
        frames = dict.fromkeys(names, frame)
    left_out = bad_rows.by_reason("of an item file") if bad_rows is not None else {}
    return frames, read_files, left_out | ({"rows of an item file with a repeated id": repeated} if repeated else {})


def _item_frame(path: Path, options: SourceOptions, bad_rows: BadRows | None) -> pl.DataFrame:
    fields = _fields(path)
    item = (options.item_id or options.item_column or _USUAL["item"]).split(":")[0]
    title = _first(fields, options.title, _TITLES, path, "--title")
    category = _first(fields, options.category, _CATEGORIES, path, "--category")
    if item not in fields:
        raise InputError(
            "missing field", file=path, row=1, column=item, found=", ".join(fields), expected="--item-id NAME"
        )
    others = [name for name, kind in fields.items() if kind == "token_seq" and name not in (item, title, category)]
    full = {name: f"{name}:{kind}" for name, kind in fields.items()}
    frame = scan(path, "tsv", list(full.values()), bad_rows=bad_rows)
    frame = frame.with_columns(item=id_value(full[item], pl.String(), path)).collect()
    frame = with_values(frame, "item", path, bad_rows, name=full[item], what="an id")
    values = [_values(full[name]) for name in others]
    return frame.select(
        "item",
        (pl.col(full[title]) if title else pl.lit(None, pl.String)).alias("title"),
        (_values(full[category]) if category else pl.lit([], pl.List(pl.String))).alias("category"),
        (pl.concat_list(values) if values else pl.lit([], pl.List(pl.String))).alias("attributes"),
    ).cast(ITEM_SCHEMA)  # type: ignore[arg-type]


def _first(fields: dict[str, str], asked: str | None, usual: Sequence[str], path: Path, flag: str) -> str | None:
    if asked is not None:
        name = asked.split(":")[0]
        if name not in fields:
            raise InputError(
                "missing field", file=path, row=1, column=name, found=", ".join(fields), expected=f"as {flag} says"
            )
        return name
    return next((name for name in usual if name in fields), None)


def _values(column: str) -> pl.Expr:
    return pl.col(column).fill_null("").str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
