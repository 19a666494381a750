"""RecBole's atomic files: `NAME.inter` (and `NAME.item`), tab-separated, with `field:type` in the header.

Types are token, token_seq (values with spaces between them), float and float_seq. The usual fields `user_id`,
`item_id`, `rating` and `timestamp` are found by name; others are named by the options, with or without their type.
Several `.inter` files are several domains, whose equal ids are one user and one item (`--items-across separate` if
not). A file without a timestamp has no order. `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter` together are
a split made elsewhere. Source: Zhao et al., "RecBole" (CIKM 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import id_value
from mdrec_jax.data.sources.formats import column_names, scan
from mdrec_jax.data.sources.item_table import with_values
from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, require_file
from mdrec_jax.data.sources.table import read_named
from mdrec_jax.data.sources.times import NO_TIME
from mdrec_jax.errors import InputError

_TYPES = ("token", "token_seq", "float", "float_seq")
_USUAL = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
_WANTED = {"user": "token", "item": "token", "rating": "float", "time": "float", "domain": "token", "event": "token"}
_TITLES = ("title", "movie_title", "name", "item_name")
_CATEGORIES = ("categories", "category")
_PARTS = {".train.inter": "train", ".valid.inter": "validation", ".test.inter": "test"}
_EVENT = "interaction"


@dataclass(frozen=True)
class _Inter:
    """A file of events.

    Args:
        domain: that it is about.
        name: NAME, which its `.item` file has too.
        part: train, validation or test of a split made elsewhere; None where it holds all events.
    """

    path: Path
    domain: str
    name: str
    part: str | None


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads the `.inter` files that are given or lie in the given folders.

    Raises:
        InputError: no such file, a header without types, a missing field, or a malformed line.
    """
    options.refuse("recbole", "items_file", "no_header", "separator", "given")
    files = _inter_files(paths, options)
    columns = _columns(files, options)
    by_column = columns["domain"] is not None
    table = SourceOptions(
        user_column=columns["user"],
        item_column=columns["item"],
        time_column=columns["time"] or NO_TIME,
        rating_column=columns["rating"],
        domain_column=columns["domain"],
        event_column=columns["event"],
        time_unit=options.time_unit,
        skip_bad_rows=options.skip_bad_rows,
    )
    log = read_named("tsv", [(None if by_column else file.domain, file.path, file.part) for file in files], table)
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


def _inter_files(paths: Sequence[Path], options: SourceOptions) -> list[_Inter]:
    """The files of events, those of a domain behind each other."""
    named: list[tuple[str | None, Path]] = [*options.domains, *((None, path) for path in paths)]
    found: list[_Inter] = []
    for domain, path in named:
        inside = [path]
        if path.is_dir():
            stems = sorted({file.name.removesuffix(".gz") for file in path.glob("*.inter*")})
            inside = [find_in(path, stem) for stem in stems if stem.endswith(".inter")]
        files = [_inter(file, domain) for file in inside]
        if domain is not None and len({file.name for file in files}) > 1:
            raise InputError("several files for one domain", file=path, found=[file.name for file in inside])
        found += files
    if not found:
        where = paths[0] if paths else None
        raise InputError("no .inter file", file=where, expected="files NAME.inter, plain or .gz")
    domains = list(dict.fromkeys(file.domain for file in found))
    by_domain = [[file for file in found if file.domain == domain] for domain in domains]
    for files in by_domain:
        _check_parts(files)
    whole = next((file for file in found if file.part is None), None)
    split = next((file for file in found if file.part is not None), None)
    if whole is not None and split is not None:
        raise InputError(
            "some domains have a split made elsewhere and others have none", file=whole.path, found=whole.path.name,
            expected=f"{whole.name}.train.inter and its like, as of {split.name}",
        )  # fmt: skip
    return [file for files in by_domain for file in files]


def _inter(file: Path, domain: str | None) -> _Inter:
    require_file(file, "a file NAME.inter")
    stem = file.name.removesuffix(".gz")
    if not stem.endswith(".inter"):
        raise InputError("not an .inter file", file=file, found=file.name, expected="NAME.inter, a NAME each")
    ending = next((ending for ending in _PARTS if stem.endswith(ending)), ".inter")
    name = stem.removesuffix(ending)
    return _Inter(file, domain or name, name, _PARTS.get(ending))


def _check_parts(files: list[_Inter]) -> None:
    """Refuses files of a domain that are neither one, nor the three of one split."""
    parts, (first, *others) = {file.part for file in files}, files
    if len(parts) < len(files):
        again = next(file for place, file in enumerate(files) if file.part in [one.part for one in files[:place]])
        raise InputError("a domain given twice", file=again.path, found=again.domain, expected="a file, or three, each")
    if None in parts and others:
        found = ", ".join(file.path.name for file in files)
        hint = "name the file, or the three files, that you mean, and not the folder"
        raise InputError("a whole log beside a split made elsewhere", file=first.path.parent, found=found, hint=hint)
    missing = [f"{first.name}{ending}" for ending, part in _PARTS.items() if part not in parts]
    if None not in parts and missing:
        raise InputError(
            "a file of a split made elsewhere is missing", file=first.path.parent,
            found=", ".join(file.path.name for file in files), expected=" and ".join(missing) + " beside it",
        )  # fmt: skip


def _columns(files: list[_Inter], options: SourceOptions) -> dict[str, str | None]:
    """What a field is -> its full header name, the same in every file; None where there is none."""
    each = [{what: _column(file.path, what, getattr(options, f"{what}_column")) for what in _WANTED} for file in files]
    for file, columns in zip(files, each, strict=True):
        listed = f"{str(columns['item']).split(':')[0]}_list"
        if listed in _fields(file.path):
            raise InputError(
                "a whole history in every row", file=file.path, row=1, column=listed, expected="an event a row",
                hint="give the log that the rows were made from",
            )  # fmt: skip
        for what, column in columns.items():
            if column != each[0][what]:
                problem = "missing field" if column is None else "a field that another file does not have"
                expected = f"the fields of {files[0].path.name}: {', '.join(filter(None, each[0].values()))}"
                name = column or each[0][what]
                raise InputError(
                    problem, file=file.path, row=1, column=name, found=", ".join(_fields(file.path)), expected=expected
                )
    return each[0]


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
    files: list[_Inter], options: SourceOptions, log: RawLog, *, by_column: bool
) -> tuple[dict[str, pl.DataFrame], list[Path], dict[str, int]]:
    """The `.item` file beside each `.inter` file: (domain -> items, files read, rows left out by reason)."""
    frames: dict[str, pl.DataFrame] = {}
    read_files, repeated = [], 0
    bad_rows = BadRows() if options.skip_bad_rows else None
    for file in files:
        path = find_in(file.path.parent, f"{file.name}.item", optional=True)
        if path is None or path in read_files:
            continue
        domain, frame = file.domain, _item_frame(path, options, bad_rows)
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
