"""Amazon Reviews (UCSD): a file of reviews a category, a JSON object a line, and a file of metadata beside it.

2018 (and 2014): `NAME.json.gz`, `NAME_5.json.gz` or `reviews_NAME_5.json.gz` with reviewerID, asin, unixReviewTime
(seconds) and overall; 2023: `NAME.jsonl.gz` with user_id, parent_asin, timestamp (milliseconds) and rating. Metadata:
`meta_NAME` with the same ending. Each NAME is a domain. Reviewers and products are the same persons and things in all
of them. A category path goes from general to special; the brand (2023: the store) is an attribute.
Sources: Ni et al. (EMNLP 2019) and Hou et al., "Bridging Language and Items" (2024).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import id_value
from mdrec_jax.data.sources.formats import column_names, scan, table_files
from mdrec_jax.data.sources.item_table import with_values
from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import require_file
from mdrec_jax.data.sources.table import read_jsonl
from mdrec_jax.errors import InputError

_NAME = re.compile(r"(?P<meta>meta_)?(?:reviews_)?(?P<domain>.+?)(?:_\d+(?:core)?)?\.jsonl?(?:\.gz)?")
_EVENT = "review"


@dataclass(frozen=True)
class _Release:
    """What one release calls its fields."""

    user: str
    item: str
    time: str
    rating: str
    unit: str
    category: str
    brand: str

    @property
    def fields(self) -> tuple[str, str, str, str]:
        return self.user, self.item, self.time, self.rating


_RELEASES = (
    _Release("reviewerID", "asin", "unixReviewTime", "overall", "s", "category", "brand"),
    _Release("user_id", "parent_asin", "timestamp", "rating", "ms", "categories", "store"),
)


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads review files, metadata files and folders of them; `--domain NAME=PATH` gives a file another domain's name.

    Raises:
        InputError: no reviews, files of two releases, metadata of a domain without reviews, or a malformed line.
    """
    options.refuse("amazon", *(name for name in OPTION_NAMES if name not in ("domains", "skip_bad_rows")))
    reviews, metadata = _files(paths, options)
    release = _release(reviews, skip=options.skip_bad_rows)
    table = SourceOptions(
        user_column=release.user,
        item_column=release.item,
        time_column=release.time,
        rating_column=release.rating,
        time_unit="ms" if release.unit == "ms" else "s",
        domains=tuple(reviews.items()),
        skip_bad_rows=options.skip_bad_rows,
    )
    log = read_jsonl([], table)
    items, repeated = {}, 0
    bad_rows = BadRows() if options.skip_bad_rows else None
    for domain, path in metadata.items():
        items[domain], left_out = _metadata(path, release, bad_rows)
        repeated += left_out
    dropped = bad_rows.by_reason("of metadata") if bad_rows is not None else {}
    return replace(
        log,
        events=log.events.with_columns(pl.lit(_EVENT).alias("event")),
        event_types=(_EVENT,),
        files=(*log.files, *metadata.values()),
        items=items,
        items_across="shared",
        dropped=dropped | ({"rows of metadata with a repeated id": repeated} if repeated else {}),
    )


def _files(paths: Sequence[Path], options: SourceOptions) -> tuple[dict[str, Path], dict[str, Path]]:
    """(domain -> reviews, domain -> metadata)."""
    reviews: dict[str, Path] = {}
    metadata: dict[str, Path] = {}
    named: list[tuple[str | None, Path]] = [*options.domains, *((None, path) for path in paths)]
    for name, path in named:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            match = _NAME.fullmatch(file.name)
            if match is None and path.is_dir():
                continue  # a licence or a note beside the data
            require_file(file, "a file of reviews")
            if match is None:
                expected = "NAME.json[.gz], NAME.jsonl[.gz] or meta_NAME of the same endings"
                raise InputError("not a file of Amazon Reviews", file=file, found=file.name, expected=expected)
            kind, domain = metadata if match["meta"] else reviews, name or match["domain"]
            if domain in kind:
                expected = f"only {kind[domain].name}"
                raise InputError(
                    "two files for one domain", file=file, column=domain, found=file.name, expected=expected
                )
            kind[domain] = file
    if not reviews:
        where = paths[0] if paths else None
        raise InputError("no file of reviews", file=where, expected="NAME.json.gz or NAME.jsonl.gz")
    for domain, file in metadata.items():
        if domain not in reviews:
            raise InputError(
                "metadata of a domain without reviews", file=file, found=domain, expected=", ".join(reviews)
            )
    return reviews, metadata


def _release(reviews: dict[str, Path], *, skip: bool) -> _Release:
    """The release whose fields all the files have."""
    found: dict[str, _Release] = {}
    for path in reviews.values():
        (file,) = table_files(path, "jsonl")
        keys = column_names(file, "jsonl", skip=skip)
        release = next((release for release in _RELEASES if {release.user, release.item} <= {*keys}), None)
        if release is None:
            expected = " or ".join(", ".join(release.fields) for release in _RELEASES)
            raise InputError(
                "not reviews of a known release", file=path, row=1, found=", ".join(keys), expected=expected
            )
        missing = [name for name in release.fields if name not in keys]
        if missing:
            raise InputError("missing column", file=path, row=1, column=missing[0], found=", ".join(keys))
        found[path.name] = release
    if len(set(found.values())) > 1:
        expected = "reviews of one release"
        raise InputError("reviews of two releases", found=", ".join(found), expected=expected)
    return next(iter(found.values()))


def _metadata(path: Path, release: _Release, bad_rows: BadRows | None) -> tuple[pl.DataFrame, int]:
    """(items by ITEM_SCHEMA, rows left out because an earlier one has the same id)."""
    (file,) = table_files(path, "jsonl")
    keys = column_names(file, "jsonl", skip=bad_rows is not None)
    if release.item not in keys:
        raise InputError("missing column", file=path, row=1, column=release.item, found=", ".join(keys))
    lists = {release.category: pl.List(pl.String)}
    columns = [release.item, "title", release.category, release.brand]
    frame = scan(file, "jsonl", columns, bad_rows=bad_rows, types=lists).collect(engine="streaming")
    frame = frame.with_columns(item=id_value(release.item, pl.String(), file))
    frame = with_values(frame, "item", file, bad_rows, name=release.item, what="an id")
    brand = pl.concat_list(pl.col(release.brand).replace("", None)).list.drop_nulls()
    items = frame.select(
        "item",
        pl.col("title").replace("", None),
        pl.col(release.category).fill_null([]).alias("category"),
        brand.alias("attributes"),
    ).cast(ITEM_SCHEMA)  # type: ignore[arg-type]
    once = items.unique("item", keep="first", maintain_order=True)
    return once, items.height - once.height
