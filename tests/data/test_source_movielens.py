"""MovieLens in the three ways that GroupLens has written it."""

import gzip
from pathlib import Path

import pytest

from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.data.sources.movielens import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError

EVENTS = [("1", "31", 2.5, 1_260_759_144), ("1", "1029", 3.0, 1_260_759_179), ("7", "31", 5.0, 851_866_703)]
TITLES = {"31": 'Am\u00e9lie, or: "Le fabuleux" (2001)', "1029": "Dumbo (1941)"}
GENRES = {"31": ["Comedy", "Romance"], "1029": ["Animation", "Musical"]}


def make_csv(folder: Path) -> Path:
    rows = "".join(f"{user},{item},{rating},{time}\n" for user, item, rating, time in EVENTS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    quoted = TITLES["31"].replace('"', '""')
    movies = f'movieId,title,genres\n31,"{quoted}",Comedy|Romance\n1029,Dumbo (1941),Animation|Musical\n'
    (folder / "movies.csv").write_text(movies + "5,Nothing (2000),(no genres listed)\n", encoding="utf-8")
    return folder


def make_dat(folder: Path, encoding: str = "latin-1") -> Path:
    rows = "".join(f"{user}::{item}::{rating:g}::{time}\n" for user, item, rating, time in EVENTS)
    (folder / "ratings.dat.gz").write_bytes(gzip.compress(rows.encode()))
    movies = "".join(f"{item}::{title}::{'|'.join(GENRES[item])}\n" for item, title in TITLES.items())
    (folder / "movies.dat").write_bytes(movies.encode(encoding))
    return folder


def make_100k(folder: Path) -> Path:
    rows = "".join(f"{user}\t{item}\t{rating:g}\t{time}\n" for user, item, rating, time in EVENTS)
    (folder / "u.data").write_text(rows)
    flags = {"31": "0|0|0|0|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0", "1029": "0|0|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0"}
    lines = "".join(f"{item}|{title}|01-Jan-1995||http://x|{flags[item]}\n" for item, title in TITLES.items())
    (folder / "u.item").write_bytes(lines.encode("latin-1"))
    return folder


MAKERS = [make_csv, make_dat, make_100k, lambda folder: make_dat(folder, "utf-8")]


@pytest.mark.parametrize("make", MAKERS)
def test_every_release_reads_the_same(tmp_path: Path, make):
    log = read([make(tmp_path)], SourceOptions())
    events = log.events.collect().sort("order")
    assert events.select("user", "item", "rating", "time").rows() == EVENTS
    assert set(events.select("domain", "event").rows()) == {("movies", "rating")}
    assert (log.domains, log.event_types, log.default_split) == (("movies",), ("rating",), "loo")
    assert (log.has_time, log.ordered, log.min_user, log.min_item) == (True, True, 1, 1)
    items = {
        item: (title, genres)
        for item, title, genres in log.items["movies"].select("item", "title", "attributes").rows()
    }
    assert {item: items[item] for item in TITLES} == {item: (TITLES[item], GENRES[item]) for item in TITLES}
    assert items.get("5", (None, []))[1] == []
    assert log.items["movies"]["category"].list.len().max() == 0
    assert len(log.files) == 2


@pytest.mark.parametrize("make", MAKERS)
def test_the_films_are_optional(tmp_path: Path, make):
    make(tmp_path)
    for path in [*tmp_path.glob("movies.*"), *tmp_path.glob("u.item")]:
        path.unlink()
    log = read([tmp_path], SourceOptions())
    assert (log.items, len(log.files)) == ({}, 1)


@pytest.mark.parametrize("make", MAKERS)
def test_it_becomes_a_dataset(tmp_path: Path, make):
    (tmp_path / "in").mkdir()
    folder = make(tmp_path / "in")
    ratings = next(path for name in ("ratings.csv", "u.data") if (path := folder / name).exists() or name == "u.data")
    if ratings.exists():
        separator = "," if ratings.suffix == ".csv" else "\t"
        more = "".join(separator.join(("9", str(item), "4", str(900_000_000 + item))) + "\n" for item in range(4))
        ratings.write_text(ratings.read_text() + more)
    else:
        lines = gzip.decompress((folder / "ratings.dat.gz").read_bytes()).decode()
        more = "".join(f"9::{item}::4::{900_000_000 + item}\n" for item in range(4))
        (folder / "ratings.dat.gz").write_bytes(gzip.compress((lines + more).encode()))
    counts = prepare("movielens", [folder], tmp_path / "out").manifest.counts
    assert (counts.users, counts.items, counts.events) == (3, 6, 7)
    assert counts.roles["test"] == counts.roles["validation"] == 1


@pytest.mark.parametrize(
    ("bad", "column"),
    [
        ("1,31,2.5,x", "timestamp"),
        ("1,31,good,1260759144", "rating"),
        ("1,,2.5,1260759144", "movieId"),
        ("1,31,2.5,-4", "timestamp"),
    ],
)
@pytest.mark.parametrize(("make", "separator"), [(make_csv, ","), (make_dat, "::"), (make_100k, "\t")])
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, make, separator: str, bad: str, column: str):
    (tmp_path / "in").mkdir()
    folder = make(tmp_path / "in")
    line = bad.replace(",", separator) + "\n"
    for path in (folder / "ratings.csv", folder / "u.data"):
        if path.exists():
            path.write_text(path.read_text() + line)
    packed = folder / "ratings.dat.gz"
    if packed.exists():
        packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes()) + line.encode()))
    with pytest.raises(InputError) as caught:
        prepare("movielens", [folder], tmp_path / "out")
    assert (caught.value.row, caught.value.column) == (5 if separator == "," else 4, column)
    assert not (tmp_path / "out").exists()


def test_another_header_is_refused(tmp_path: Path):
    make_csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("user,movieId,rating,timestamp\n1,2,3,4\n")
    with pytest.raises(InputError, match="wrong header"):
        read([tmp_path], SourceOptions())
    make_csv(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,title\n1,Heat\n")
    with pytest.raises(InputError, match="wrong header"):
        read([tmp_path], SourceOptions())


@pytest.mark.parametrize(
    ("name", "content"), [("movies.csv", "movieId,title,genres\n1,Heat (1995),Action,x\n"), ("u.item", "1|Heat\n")]
)
def test_a_bad_line_of_the_films_is_refused_with_its_number(tmp_path: Path, name: str, content: str):
    (make_csv if name == "movies.csv" else make_100k)(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="fields") as caught:
        read([tmp_path], SourceOptions())
    assert caught.value.row == content.count("\n")


def test_missing_double_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no single file of ratings"):
        read([tmp_path], SourceOptions())
    packed = make_dat(tmp_path) / "ratings.dat.gz"
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-5])
    with pytest.raises(InputError, match="truncated"):
        read([tmp_path], SourceOptions())
    packed.write_bytes(whole)
    make_csv(tmp_path)
    with pytest.raises(InputError, match="no single file of ratings"):
        read([tmp_path], SourceOptions())
    with pytest.raises(InputError, match="--time-unit"):
        read([tmp_path], SourceOptions(time_unit="ms"))
