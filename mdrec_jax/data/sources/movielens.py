"""MovieLens as GroupLens publishes it: the folder that an archive unpacks to, each file plain or gzip.

100K: `u.data` (tab-separated) and `u.item`; 1M and 10M: `ratings.dat` and `movies.dat` (`::` between fields); 20M, 25M,
32M and "latest": `ratings.csv` and `movies.csv`. The films are optional. Genres are a set and not a path from general
to special, so they become attributes and the category stays empty.
Source: Harper and Konstan, "The MovieLens Datasets" (TiiS 2015).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.formats import column_names, scan
from mdrec_jax.data.sources.lines import locate_rows, require_filled, split_lines, to_floats, to_integers
from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, one_path, read_bytes, require_folder
from mdrec_jax.data.sources.table import read_csv
from mdrec_jax.errors import InputError

DOMAIN = "movies"
_EVENT = "rating"
_RATINGS = ("ratings.csv", "ratings.dat", "u.data")
_COLUMNS = ["userId", "movieId", "rating", "timestamp"]
_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
"""The order of the 0/1 fields at the end of a line of `u.item`."""
_NO_GENRE = ("(no genres listed)", "unknown", "")


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads one folder of any of the releases.

    Raises:
        InputError: no ratings, or a malformed file.
    """
    options.refuse("movielens", *OPTION_NAMES)
    folder = require_folder(one_path(paths, "the folder of the ratings"), "the folder of the ratings")
    found = {name: path for name in _RATINGS if (path := find_in(folder, name, optional=True))}
    if len(found) != 1:
        expected = "one of " + ", ".join(f"{name}[.gz]" for name in _RATINGS)
        raise InputError("no single file of ratings", file=folder, found=list(found) or "none", expected=expected)
    ((name, path),) = found.items()
    if name == "ratings.csv":
        log = _read_csv(path)
        movies, read_items = find_in(folder, "movies.csv", optional=True), _movies_csv
    elif name == "ratings.dat":
        log = _read_lines(path, "::")
        movies, read_items = find_in(folder, "movies.dat", optional=True), read_movies
    else:
        log = _read_lines(path, "\t")
        movies, read_items = find_in(folder, "u.item", optional=True), _movies_100k
    if movies is None:
        return log
    return replace(log, items={DOMAIN: read_items(movies)}, files=(*log.files, movies))


def _read_csv(path: Path) -> RawLog:
    names = column_names(path, "csv")
    if names != _COLUMNS:
        raise InputError("wrong header", file=path, row=1, found=",".join(names), expected=",".join(_COLUMNS))
    user, item, rating, time = _COLUMNS
    columns = SourceOptions(
        user_column=user, item_column=item, rating_column=rating, time_column=time, domains=((DOMAIN, path),)
    )
    log = read_csv([], columns)
    events = log.events.with_columns(pl.lit(_EVENT).alias("event"))
    return replace(log, events=events, event_types=(_EVENT,), min_user=1, min_item=1)


def _read_lines(path: Path, separator: str) -> RawLog:
    frame = split_lines(path, separator, _COLUMNS, header=False)
    require_filled(frame, _COLUMNS[:2], path)
    frame = to_integers(to_floats(frame, "rating", path), "timestamp", path)
    events = frame.select(
        pl.col("userId").alias("user"),
        pl.col("movieId").alias("item"),
        pl.lit(DOMAIN).alias("domain"),
        pl.lit(_EVENT).alias("event"),
        pl.col("timestamp").alias("time"),
        "rating",
        pl.int_range(pl.len(), dtype=pl.Int64).alias("order"),
    )
    return RawLog(
        events=events.lazy(),
        has_time=True,
        ordered=True,
        files=(path,),
        domains=(DOMAIN,),
        event_types=(_EVENT,),
        locate=locate_rows([(path, frame["row"])]),
    )


def read_movies(path: Path) -> pl.DataFrame:
    """`movies.dat`: `MovieID::Title (Year)::Genre|Genre`, in UTF-8 or (1M) Latin-1.

    Returns:
        A frame of ITEM_SCHEMA.

    Raises:
        InputError: missing or damaged file, or a line of other fields.
    """
    frame = split_lines(path, "::", ["item", "title", "genres"], header=False, encoding=_encoding(path))
    return _item_frame(frame)


def _movies_csv(path: Path) -> pl.DataFrame:
    names, expected = column_names(path, "csv"), ["movieId", "title", "genres"]
    if names != expected:
        raise InputError("wrong header", file=path, row=1, found=",".join(names), expected=",".join(expected))
    return _item_frame(scan(path, "csv", names).collect().rename({"movieId": "item"}))


def _movies_100k(path: Path) -> pl.DataFrame:
    names = _GENRES.split("|")
    columns = ["item", "title", "released", "video", "address", *names]
    frame = split_lines(path, "|", columns, header=False, encoding=_encoding(path))
    genres = pl.concat_str(
        [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in names], separator="|", ignore_nulls=True
    )
    return _item_frame(frame.select("item", "title", genres.alias("genres")))


def _encoding(path: Path) -> str:
    try:
        read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _item_frame(frame: pl.DataFrame) -> pl.DataFrame:
    genres = pl.col("genres").fill_null("").str.split("|")
    return frame.select(
        "item",
        "title",
        pl.lit([], pl.List(pl.String)).alias("category"),
        genres.list.eval(pl.element().filter(~pl.element().is_in(_NO_GENRE))).alias("attributes"),
    ).cast(ITEM_SCHEMA)  # type: ignore[arg-type]
