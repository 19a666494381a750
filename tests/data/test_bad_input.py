"""Bad input to `mdrec prepare` ends with exit code 2 and a message with file, row, column, found and expected; nothing
is written."""

import gzip
from pathlib import Path

import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import compression, reading
from mdrec_jax.errors import InputError
from tests.command import mdrec
from tests.data.make import make_dataset, numbered

GOOD = "user,item,time,domain,rating\n" + "".join(
    f"u{user},i{place},{place + 1},books,4\n" for user in range(3) for place in range(4)
)


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs `mdrec prepare`, which must refuse: the message."""

    def check(*arguments: str, source: str = "csv") -> str:
        out = tmp_path / "out"
        assert mdrec("prepare", source, *arguments, "--out", str(out), "--min-user=1", "--min-item=1") == 2
        assert not out.exists()
        assert not list(tmp_path.glob(".out*"))
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err

    return check


def table(folder: Path, text: str, name: str = "log.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def holds(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


def test_a_good_table_passes(tmp_path):
    dataset = prepare("csv", [Path(table(tmp_path, GOOD))], tmp_path / "out", PrepareOptions(min_user=1, min_item=1))
    assert dataset.manifest.counts.events == 12


def test_a_missing_or_empty_file(tmp_path, refused):
    holds(refused(str(tmp_path / "nowhere.csv")), "nowhere.csv: no such file", "expected:")
    holds(refused(table(tmp_path, "")), "log.csv: the file is empty", "0 bytes")
    holds(refused(table(tmp_path, "user,item,time\n")), "log.csv: there are no events", "0 rows")
    (tmp_path / "folder").mkdir()
    holds(refused(str(tmp_path / "folder")), "folder: the folder holds no such files", ".csv")
    holds(refused(), "no input", "a path")


def test_a_missing_column(tmp_path, refused):
    path = table(tmp_path, GOOD.replace("user,", "person,", 1))
    holds(refused(path), "log.csv, row 1, column 'user': missing column", "person, item", "--user-column")
    holds(
        refused(table(tmp_path, GOOD), "--item-column", "sku"), "row 1, column 'sku': missing column", "--item-column"
    )


def test_two_columns_that_could_be_meant(tmp_path, refused):
    path = table(tmp_path, "user,user_id,item\nu,v,i\n")
    holds(refused(path), "row 1, column 'user': which column is it?", "user and user_id", "--user-column")


def test_a_duplicate_header(tmp_path, refused):
    holds(refused(table(tmp_path, "user,item,user\nu,i,v\n")), "row 1, column 'user': duplicate column in the header")


@pytest.mark.parametrize(
    ("value", "unit", "problem"),
    [
        ("soon", "s", "unparsable time"),
        ("", "s", "missing value"),
        ("-5", "s", "a negative time"),
        ("nan", "s", "a time that is not a number"),
        ("inf", "s", "a time that is not a number"),
        ("1400000000000", "s", "looks like milliseconds, but 5 other values do not"),
        ("1400000000000000", "s", "looks like microseconds"),
        ("2014-07-23", "s", "looks like dates, but 5 other values do not"),
        ("2014-07-23T10:00:00", "ms", "looks like dates, but 5 other values do not"),
        ("1400000000", "iso", "looks like seconds, but 5 other values do not"),
        ("1400000000000", "iso", "looks like milliseconds, but 5 other values do not"),
        ("23 July", "iso", "a date such as 2014-07-23"),
    ],
)
def test_an_unparsable_time_is_shown_with_its_place(tmp_path, refused, value, unit, problem):
    good = "2014-07-2{}" if unit == "iso" else "{}"
    rows = [f"u,i{place},{good.format(place)}" for place in range(1, 7)]
    rows[3] = f"u,i,{value}"
    message = refused(table(tmp_path, "user,item,time\n" + "\n".join(rows) + "\n"), "--time-unit", unit)
    holds(message, "log.csv, row 5, column 'time'", problem, value if value else "nothing")


def test_seconds_where_milliseconds_were_announced(tmp_path, refused):
    path = table(tmp_path, "user,item,time\n" + "".join(f"u,i{place},{1400000000 + place}\n" for place in range(5)))
    message = refused(path, "--time-unit", "ms")
    holds(message, "row 2, column 'time'", "1400000000", "looks like seconds: use --time-unit s")


def test_times_further_apart_than_a_batch_can_hold(tmp_path, refused):
    path = table(tmp_path, "user,item,time\nu,a,1000000000\nu,b,1000000001\nu,c,9000000000\n")
    holds(refused(path), "row 4, column 'time': times span more than 68 years", "9000000000")


@pytest.mark.parametrize(
    ("value", "problem"),
    [("good", "unparsable number"), ("-1", "negative, NaN"), ("nan", "negative, NaN"), ("inf", "negative, NaN")],
)
def test_a_bad_rating(tmp_path, refused, value, problem):
    path = table(tmp_path, "user,item,time,rating\nu,a,1,5\nu,b,2,5\n\nu,c,3," + value + "\n")
    holds(refused(path, "--min-rating", "2"), f"log.csv, row 5, column 'rating': {problem}", value)


def test_a_missing_rating_matters_only_to_a_filter(tmp_path, refused):
    text = "user,item,time,rating\nu,a,1,5\nu,b,2,\nu,c,3,5\n"
    path = table(tmp_path, text)
    assert prepare("csv", [Path(path)], tmp_path / "d", PrepareOptions(min_user=1, min_item=1)).num_users == 1
    holds(refused(path, "--min-rating", "2"), "row 3, column 'rating': missing value")
    holds(refused(table(tmp_path, text.replace("2,\n", "2,1\n")), "--min-rating", "9"), "rated high enough")
    holds(refused(table(tmp_path, "user,item\nu,a\n"), "--min-rating", "2"), "there are no ratings")


@pytest.mark.parametrize(
    ("column", "problem"),
    [("user", "missing value"), ("item", "missing value"), ("domain", "an item without a domain")],
)
def test_a_missing_id_or_domain(tmp_path, refused, column, problem):
    for empty in ("", '""'):
        values = {"user": "u", "item": "i", "time": "5", "domain": "books", "rating": "4", column: empty}
        path = table(tmp_path, GOOD + ",".join(values.values()) + "\n")
        holds(refused(path), f"log.csv, row 14, column '{column}': {problem}", "nothing")


def test_the_first_bad_row_is_the_one_shown(tmp_path, refused):
    path = table(tmp_path, "user,item,time\nu,a,1\nu,b,x\n,c,3\nu,,-1\n")
    holds(refused(path), "row 3, column 'time'")


def test_a_record_over_several_lines_is_counted_by_lines(tmp_path, refused):
    path = table(tmp_path, 'user,item,time\nu,"a\nb",1\nu,c,x\n')
    holds(refused(path), "row 4, column 'time'", "found:    x")


def test_too_many_fields_and_text_that_is_not_utf8(tmp_path, refused):
    holds(refused(table(tmp_path, GOOD + "u,i,5,books,4,more\n")), "row 14: too many fields", "6 fields", "5 fields")
    holds(refused(table(tmp_path, GOOD + "u\n")), "row 14, column 'item': too few fields", "1 fields")
    (tmp_path / "log.csv").write_bytes(GOOD.encode() + b"u,\xff\xfe,5,books,4\n")
    holds(refused(str(tmp_path / "log.csv")), "log.csv, row", "text cannot be decoded", "UTF-8")


def test_lines_that_are_not_json_objects(tmp_path, refused):
    good = '{"user": "u", "item": "a", "time": 1}\n'
    holds(refused(table(tmp_path, good + '{"user": "u", \n', "l.jsonl"), source="jsonl"), "l.jsonl, row 2: is not JSON")
    holds(refused(table(tmp_path, good + "[1, 2]\n", "l.jsonl"), source="jsonl"), "row 2: not a JSON object", "a list")
    later = table(tmp_path, good * 200 + '\n{"user": "u", "item": "a", "ti', "l.jsonl")
    message = refused(later, source="jsonl")
    holds(message, "row 202: is not JSON", "column 28")
    assert '"u"' not in message
    bad = table(tmp_path, good * 3 + '\n{"user": "u", "item": null, "time": 2}\n', "l.jsonl")
    holds(refused(bad, source="jsonl"), "l.jsonl, row 5, column 'item': missing value")
    bad = table(tmp_path, good * 3 + '{"user": "u", "item": "b", "time": true}\n', "l.jsonl")
    holds(refused(bad, source="jsonl"), "row 4, column 'time': unparsable time")


def test_what_is_not_parquet_or_holds_the_wrong_types(tmp_path, refused):
    import polars as pl

    holds(refused(table(tmp_path, GOOD, "l.parquet"), source="parquet"), "l.parquet: is not a whole Parquet file")
    frame = pl.DataFrame({"user": ["u"] * 3, "item": [1.5, 2.5, 3.5], "time": [1, 2, 3]})
    frame.write_parquet(tmp_path / "l.parquet")
    holds(refused(str(tmp_path / "l.parquet"), source="parquet"), "row 1, column 'item': ids of a wrong type", "1.5")
    frame.with_columns(item=pl.lit("i"), time=pl.lit(True)).write_parquet(tmp_path / "l.parquet")
    holds(refused(str(tmp_path / "l.parquet"), source="parquet"), "column 'time': times of a wrong type", "Boolean")
    frame.with_columns(item=pl.Series(["a", None, "b"])).write_parquet(tmp_path / "l.parquet")
    holds(refused(str(tmp_path / "l.parquet"), source="parquet"), "row 2, column 'item': missing value")
    whole = (tmp_path / "l.parquet").read_bytes()
    (tmp_path / "l.parquet").write_bytes(whole[: len(whole) // 2])
    holds(refused(str(tmp_path / "l.parquet"), source="parquet"), "is not a whole Parquet file")


def test_a_truncated_or_oversized_archive(tmp_path, refused, monkeypatch):
    content = gzip.compress((GOOD * 50).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(content[: len(content) // 2])
    holds(refused(str(path)), "log.csv.gz: truncated or damaged archive")
    path.write_bytes(content[:40] + b"\x00\xff" * 20 + content[80:])
    holds(refused(str(path)), "log.csv.gz: truncated or damaged archive")
    path.write_bytes(gzip.compress(b""))
    holds(refused(str(path)), "log.csv.gz: the file is empty")
    path.write_bytes(content)
    monkeypatch.setattr(compression, "FREE_BYTES", 1000)
    monkeypatch.setattr(compression, "MAX_RATIO", 2)
    holds(refused(str(path)), "log.csv.gz: unpacks to more than is allowed", "<= 1000")
    with pytest.raises(InputError, match="unpacks to more than is allowed"):
        reading.read_bytes(path, limit=1000)


def test_domains_that_contradict(tmp_path, refused):
    path = table(tmp_path, GOOD)
    holds(refused("--domain", "books"), "--domain", "NAME=PATH", "found:    books")
    holds(refused(path, "--domain", f"books={path}"), "give either paths or --domain")
    holds(refused("--domain", f"books={path}", "--domain-column", "domain"), "either --domain NAME=PATH or")
    holds(refused("--domain", f"b={path}", "--domain", f"b={path}"), "given twice", "found:    b")


def test_files_of_one_table_that_differ_in_columns(tmp_path, refused):
    first, second = table(tmp_path, GOOD, "1.csv"), table(tmp_path, "user,item\nu,i\n", "2.csv")
    holds(refused(first, second), "2.csv: other columns than in the first file", "1.csv")


def test_the_item_table(tmp_path, refused):
    path = table(tmp_path, GOOD)

    def items(text: str, *more: str) -> str:
        return refused(path, "--items", table(tmp_path, text, "items.csv"), *more)

    holds(
        items("item,domain\ni1,books\ni2,films\n", "--domain-column", "domain"),
        "items.csv, row 3, column 'domain': unknown domain",
    )
    holds(
        items("item,domain\ni1,\n", "--domain-column", "domain"),
        "items.csv, row 2, column 'domain'",
        "without a domain",
    )
    holds(items("item,title\ni1,a\n,b\n"), "items.csv, row 3, column 'item': an item without an id")
    holds(items("sku,title\ni1,a\n"), "items.csv, row 1, column 'item': missing column", "--item-id")
    holds(items("item\ni1\n", "--title", "name"), "items.csv, row 1, column 'name': missing column")
    holds(refused(path, "--items", str(tmp_path / "items.xlsx")), "items.xlsx: unknown format")
    holds(refused(path, "--items", str(tmp_path / "none.csv")), "none.csv: no such file")


def test_a_split_that_leaves_a_part_empty(tmp_path, refused):
    path = table(tmp_path, GOOD)
    holds(refused(path, "--split", "time:100,200"), "the split leaves no test events", "0 test events of 12")
    holds(refused(path, "--split", "time:0,1"), "the split leaves no train events")
    holds(refused(path, "--split", "time:3,3"), "wrong order", "T1 < T2")
    holds(refused(path, "--split", "time:3,soon"), "unparsable time", "soon")
    holds(refused(path, "--split", "random"), "unknown split", "random", "loo, loo-mixed")
    holds(refused(path, "--split", "given"), "gives no split")
    short = table(tmp_path, "user,item,time\nu,a,1\nu,b,2\nv,a,1\nv,b,2\n")
    holds(refused(short), "the split leaves no test events", "no sequence has three targets")
    holds(refused(table(tmp_path, "user,item\nu,a\nu,b\nu,c\n"), "--split", "time:1,2"), "needs times")


def test_options_out_of_range(tmp_path, refused):
    path = table(tmp_path, GOOD)
    holds(refused(path, "--max-len", "0"), "column '--max-len': option out of range", "at least 1")
    holds(refused(path, "--seed", "-1"), "--seed")
    holds(refused(path, "--min-rating", "nan"), "--min-rating")
    holds(refused(path, "--target-events", "buy,"), "an empty name")
    holds(refused(path, "--target-events", "buy"), "unknown event type", "found:    buy")
    holds(refused(path, "--max-len", "many"), "--max-len")
    holds(refused("x", source="excel"), "excel")


def test_filters_that_leave_nothing(tmp_path, capsys):
    path = table(tmp_path, GOOD)
    assert mdrec("prepare", "csv", path, "--out", str(tmp_path / "out")) == 2
    holds(capsys.readouterr().err, "the filters leave no events", "0 of 12", "--min-user (now 5)")


def test_a_source_refuses_options_that_it_cannot_use(tmp_path, refused):
    holds(refused(str(tmp_path), "--user-column", "u", source="s3rec"), "'s3rec' has no use for --user-column")


def test_a_dataset_to_extend_that_was_changed(tmp_path, refused):
    old = make_dataset(tmp_path / "old", numbered(12, 6, 20))
    file = old.path / "columns" / "item.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    holds(refused(table(tmp_path, GOOD), "--extend", str(old.path)), "item.npy: a file of the dataset was changed")
    holds(refused(table(tmp_path, GOOD), "--extend", str(tmp_path)), "is not a prepared dataset")


def test_a_log_whose_declared_names_do_not_hold(tmp_path):
    rows = numbered(12, 6, 20, ("a", "b"))
    with pytest.raises(InputError, match="unknown domain") as error:
        make_dataset(tmp_path / "d", rows, domains=("a",))
    assert error.value.found == "b"
    with pytest.raises(InputError, match="unknown event"):
        make_dataset(tmp_path / "d", rows, event_types=("buy",))
    with pytest.raises(InputError, match=r"missing, negative or unparsable.*", check=lambda error: error.row == 3):
        make_dataset(tmp_path / "d", [("u", "a"), ("u", "b"), ("", "c")])


def test_s3rec_files_that_disagree(tmp_path, refused):
    def write(text: str, attributes: str = "{}", amazon: str | None = None) -> str:
        (tmp_path / "T.txt").write_text(text)
        (tmp_path / "T_item2attributes.json").write_text(attributes)
        if amazon is not None:
            (tmp_path / "gram" / "T").mkdir(parents=True, exist_ok=True)
            (tmp_path / "gram" / "T" / "user_sequence.txt").write_text(amazon)
        return refused(str(tmp_path), source="s3rec")

    holds(write("1 1 2 3\n1 4 5 6\n"), "T.txt, row 2, column 'user': a user has two lines")
    holds(write("1 1 x 3\n"), "T.txt, row 1, column 'item': unparsable number", "x")
    holds(write("1 1 0 3\n"), "T.txt, row 1, column 'item'", "at least 1")
    holds(write("1\n"), "T.txt, row 1, column 'item': a user without items")
    holds(write("1 1 2 3\n", "{"), "T_item2attributes.json, row 1: is not JSON")
    holds(write("1 1 2 3\n", "[]"), "is not a JSON object")
    holds(write("1 1 2 3\n", '{"1": 2}'), "column '1': not a list")
    holds(write("1 1 2 3\n", "{}", "U A B\n"), "user_sequence.txt, row 1: another length")
    holds(write("1 1 2 1\n", "{}", "U A B C\n"), "user_sequence.txt, row 1: item ids do not agree")
    holds(write("1 1 2 3\n", "{}", "U A B C\nV A B C\n"), "has another number of users")
    holds(refused(str(tmp_path / "none"), source="s3rec"), "none: no such folder")
