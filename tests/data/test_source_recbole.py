"""RecBole's atomic files: typed headers, any fields, any number of domains."""

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.recbole import read
from mdrec_jax.errors import InputError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ROWS = ["u1\ti1\t3\t881250949", "u1\ti2\t4.5\t881250950.0", "u2\ti1\t1\t881250951"]
ITEMS = (
    "item_id:token\tmovie_title:token_seq\tyear:token\tclass:token_seq\n"
    "i1\tToy Story\t1995\tComedy Drama\n"
    "i2\t\t1996\t\n"
)


def inter(path: Path, *rows: str, header: str = HEADER) -> Path:
    text = "".join(line + "\n" for line in (header, *(rows or ROWS)))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_the_usual_fields_are_found_by_name(tmp_path: Path):
    inter(tmp_path / "tiny.inter")
    log = read([tmp_path], SourceOptions())
    events = log.events.collect().sort("order")
    assert events.select("user", "item", "domain", "event", "time", "rating").rows() == [
        ("u1", "i1", "tiny", "interaction", 881250949, 3.0),
        ("u1", "i2", "tiny", "interaction", 881250950, 4.5),
        ("u2", "i1", "tiny", "interaction", 881250951, 1.0),
    ]
    assert (log.has_time, log.ordered, log.min_user, log.min_item) == (True, True, 1, 1)


def test_titles_and_sequences_of_tokens_are_kept(tmp_path: Path):
    path = inter(tmp_path / "tiny.inter.gz")
    (tmp_path / "tiny.item").write_text(ITEMS)
    log = read([path], SourceOptions())
    assert log.items["tiny"].rows() == [("i1", "Toy Story", [], ["Comedy", "Drama"]), ("i2", None, [], [])]
    log = read([path], SourceOptions(title="year", category="class:token_seq"))
    assert log.items["tiny"].rows()[0] == ("i1", "1995", ["Comedy", "Drama"], ["Toy", "Story"])
    assert {file.name for file in log.files} == {"tiny.inter.gz", "tiny.item"}


def test_other_fields_are_named_with_or_without_their_type(tmp_path: Path):
    header = "session:token\tsong:token\twhen:float\tkind:token\tshop:token"
    path = inter(tmp_path / "x.inter", "s\ta\t5\tplay\tDE", "s\tb\t6\tskip\tFR", header=header)
    options = SourceOptions(
        user_column="session", item_column="song:token", time_column="when", event_column="kind", domain_column="shop"
    )
    rows = read([path], options).events.collect().select("user", "item", "domain", "event", "time").rows()
    assert rows == [("s", "a", "DE", "play", 5), ("s", "b", "FR", "skip", 6)]


def test_several_files_are_domains_of_the_same_users_and_items(tmp_path: Path):
    inter(tmp_path / "books.inter")
    inter(tmp_path / "films.inter", "u1\ti1\t3\t881250940")
    log = read([tmp_path], SourceOptions())
    assert (log.domains, log.items_across) == (("books", "films"), "shared")
    named = SourceOptions(domains=(("B", tmp_path / "books.inter"), ("F", tmp_path / "films.inter")))
    assert read([], named).domains == ("B", "F")


def test_a_file_without_times_has_no_order(tmp_path: Path):
    path = inter(tmp_path / "x.inter", "u\ta", "u\tb", header="user_id:token\titem_id:token")
    log = read([path], SourceOptions())
    assert (log.has_time, log.ordered) == (False, False)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("user_id\titem_id", "wrong header"),
        ("user_id:token\titem_id:text", "wrong header"),
        ("user_id:token\titem_id:token\titem_id:token", "duplicate column"),
        ("user_id:token\trating:float", "missing field"),
        ("user_id:token\titem_id:token_seq", "wrong type"),
        ("user_id:token\titem_id:token\ttimestamp:token", "wrong type"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, problem: str):
    path = inter(tmp_path / "x.inter", "a\tb\t5", header=header)
    with pytest.raises(InputError, match=problem) as caught:
        read([path], SourceOptions())
    assert (caught.value.file, caught.value.row) == (path, 1)


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("u1\ti1\t3\tnow", "timestamp:float"),
        ("u1\ti1\t3\t-1", "timestamp:float"),
        ("u1\ti1\tgood\t5", "rating:float"),
        ("u1\t\t3\t5", "item_id:token"),
        ("u1\ti1\t3\t5\t6", None),
        ("u1\ti1\t3\t881250949000", "timestamp:float"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, column: str | None):
    path = inter(tmp_path / "x.inter.gz", *ROWS, line)
    with pytest.raises(InputError) as caught:
        prepare("recbole", [path], tmp_path / "out")
    assert (caught.value.file, caught.value.row, caught.value.column) == (path, 5, column)


def test_times_in_milliseconds_get_a_hint_and_are_read_when_announced(tmp_path: Path):
    rows = [f"u{user}\ti{item}\t3\t{881250949000 + item}" for user in range(2) for item in range(4)]
    path = inter(tmp_path / "x.inter", *rows)
    with pytest.raises(InputError, match="--time-unit ms"):
        prepare("recbole", [path], tmp_path / "out")
    options = PrepareOptions(source=SourceOptions(time_unit="ms"))
    assert prepare("recbole", [path], tmp_path / "out", options).manifest.time_origin == 881250949


@pytest.mark.parametrize(
    ("items", "problem", "row"),
    [
        ("item:token\ttitle:token_seq\ni1\tx\n", "missing field", 1),
        ("item_id:token\ttitle:token_seq\ni1\tx\n\ty\n", "item without an id", 3),
        ("item_id:token\ttitle:token_seq\ni1\tx\ny\ty\tz\n", "too many fields", 3),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, items: str, problem: str, row: int):
    path = inter(tmp_path / "x.inter")
    (tmp_path / "x.item").write_text(items)
    with pytest.raises(InputError, match=problem) as caught:
        read([path], SourceOptions())
    assert caught.value.row == row


def test_repeated_items_are_counted(tmp_path: Path):
    path = inter(tmp_path / "x.inter")
    (tmp_path / "x.item").write_text("item_id:token\ni1\ni1\n")
    assert read([path], SourceOptions()).dropped == {"rows of an item file with a repeated id": 1}


def test_missing_strange_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no \.inter file"):
        read([tmp_path], SourceOptions())
    with pytest.raises(InputError, match="no such file"):
        read([tmp_path / "x.inter"], SourceOptions())
    with pytest.raises(InputError, match=r"not an \.inter file"):
        read([inter(tmp_path / "x.csv")], SourceOptions())
    with pytest.raises(InputError, match="split made elsewhere is missing"):
        read([inter(tmp_path / "x.train.inter")], SourceOptions())
    path = inter(tmp_path / "y.inter.gz")
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match="truncated"):
        read([path], SourceOptions())


def split_files(folder: Path, name: str, header: str = HEADER, shift: int = 0) -> list[Path]:
    """Of four users: five events for training, one for validation, one for test."""
    rows = [f"u{user}\ti{(user + 2 * n) % 9}\t3\t{881250949 + 10 * n + shift}" for user in range(4) for n in range(7)]
    parts = {"train": [0, 1, 2, 3, 4], "valid": [5], "test": [6]}
    return [
        inter(folder / f"{name}.{part}.inter", *(row for n, row in enumerate(rows) if n % 7 in places), header=header)
        for part, places in parts.items()
    ]


@pytest.mark.parametrize("whole_folder", [True, False])
def test_the_files_of_a_split_made_elsewhere_are_read_as_it(tmp_path: Path, whole_folder: bool):
    (tmp_path / "a").mkdir()
    files = split_files(tmp_path / "a", "tiny")
    (tmp_path / "a" / "tiny.item").write_text(ITEMS)
    made = prepare("recbole", [tmp_path / "a"] if whole_folder else files[::-1], tmp_path / "out")
    assert (made.manifest.domains, made.manifest.split["rule"]) == (("tiny",), "given")
    assert made.manifest.counts.roles == {"train": 20, "validation": 4, "test": 4, "context": 0}
    assert made.items("tiny").filter(pl.col("raw") == "i1")["title"].to_list() == ["Toy Story"]
    times = np.asarray(made.time)[np.asarray(made.role) == 2]
    assert set(times.tolist()) == {881250949 + 60}
    other = PrepareOptions(source=SourceOptions(domains=(("T", tmp_path / "a"),)))
    assert prepare("recbole", [], tmp_path / "named", other).manifest.domains == ("T",)


def test_the_split_of_several_domains(tmp_path: Path):
    split_files(tmp_path, "books")
    split_files(tmp_path, "films", shift=5)
    made = prepare("recbole", [tmp_path], tmp_path / "out")
    assert made.manifest.domains == ("books", "films")
    assert made.manifest.counts.roles == {"train": 40, "validation": 8, "test": 8, "context": 0}
    inter(tmp_path / "songs.inter")
    with pytest.raises(InputError, match="others have none") as caught:
        read([tmp_path], SourceOptions())
    assert caught.value.file == tmp_path / "songs.inter"


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_file_of_a_split_that_is_missing_or_different_is_refused(tmp_path: Path, part: str):
    files = {file.name.split(".")[1]: file for file in split_files(tmp_path, "tiny")}
    text = files[part].read_text()
    files[part].write_text(text.replace("timestamp:float", "when:float"))
    with pytest.raises(InputError, match="field") as caught:
        read([tmp_path], SourceOptions())
    assert (caught.value.row, caught.value.column) == (1, "timestamp:float")
    files[part].write_text(text.replace("rating:float", "item_id_list:token_seq"))
    with pytest.raises(InputError):
        read([tmp_path], SourceOptions())
    files[part].unlink()
    with pytest.raises(InputError, match="split made elsewhere is missing") as caught:
        read([tmp_path], SourceOptions())
    assert f"tiny.{part}.inter" in str(caught.value)
    files[part].write_text(text)
    inter(tmp_path / "tiny.inter")
    with pytest.raises(InputError, match="a whole log beside a split"):
        read([tmp_path], SourceOptions())
    assert len(read([*files.values()], SourceOptions()).files) == 3
    with pytest.raises(InputError, match="given twice"):
        read([*files.values(), files[part]], SourceOptions())


def test_rows_that_hold_whole_histories_are_refused(tmp_path: Path):
    header = "user_id:token\titem_id:token\titem_id_list:token_seq"
    path = inter(tmp_path / "x.inter", "u\tc\ta b", header=header)
    with pytest.raises(InputError, match="a whole history in every row") as caught:
        read([path], SourceOptions())
    assert (caught.value.row, caught.value.column) == (1, "item_id_list")


def test_bad_rows_of_events_and_items_are_counted(tmp_path: Path):
    more = [f"u1\ti{n}\t3\t88125096{n}" for n in range(1, 4)]
    inter(tmp_path / "x.inter", *ROWS, *more, "u2\ti2\t3\tlater", "u2\ti2\t3\t5\t6")
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\ni1\tx\n\ty\ni2\ty\tz\n")
    made = prepare("recbole", [tmp_path], tmp_path / "out", PrepareOptions(source=SourceOptions(skip_bad_rows=True)))
    assert made.manifest.counts.dropped == {
        "rows of an item file with too many fields": 1,
        "rows of an item file without a usable item": 1,
        "rows with too many fields": 1,
        "rows without a usable time": 1,
    }


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("recbole", [shared_data / "ml100k_recbole"], tmp_path / "out")
    counts = dataset.manifest.counts
    assert (counts.users, counts.items, counts.events) == (943, 1682, 100_000)
    lengths = np.diff(dataset.sequence_offsets)
    assert (lengths.min(), lengths.max()) == (20, 737)
    items = dataset.items("ml-100k")
    assert items.filter(items["raw"] == "1").select("title", "attributes").row(0) == (
        "Toy Story",
        ["Animation", "Children's", "Comedy"],
    )
