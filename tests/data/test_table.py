"""Tables of any kind: the same events from every format, their columns, time units, domains and items."""

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pytest

from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.data.manifest import Parent
from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.rawlog import SourceOptions
from tests.command import mdrec
from tests.data.make import DAY, numbered
from tests.data.test_prepare import files_of

NONE = {"min_user": 1, "min_item": 1}


def frame(rows) -> pl.DataFrame:
    schema = {"user": pl.String, "item": pl.String, "domain": pl.String, "time": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture
def events() -> pl.DataFrame:
    return frame(numbered(12, 6, 20, ("a", "b")))


def write(events: pl.DataFrame, folder: Path, kind: str) -> Path:
    """The events in a file of the given kind; a kind ending in .gz is packed."""
    path = folder / f"log.{kind}"
    plain = kind.removesuffix(".gz")
    if plain == "csv":
        data = events.write_csv().encode()
    elif plain == "tsv":
        data = events.write_csv(separator="\t").encode()
    elif plain == "jsonl":
        data = events.write_ndjson().encode()
    else:
        events.write_parquet(path)
        return path
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("kind", ["csv.gz", "tsv", "tsv.gz", "parquet", "jsonl", "jsonl.gz"])
def test_every_format_gives_the_same_dataset(tmp_path, events, kind):
    prepare("csv", [write(events, tmp_path, "csv")], tmp_path / "1", PrepareOptions(**NONE))
    source = kind.removesuffix(".gz")
    dataset = prepare(source, [write(events, tmp_path, kind)], tmp_path / "2", PrepareOptions(**NONE))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert dataset.manifest.domains == ("a", "b")
    assert dataset.manifest.counts.events == len(events)


def test_shuffled_rows_of_a_file_give_identical_bytes(tmp_path):
    rng = random.Random(0)
    rows = [(f"u{rng.randrange(50)}", f"i{rng.randrange(70)}", rng.choice("ab"), rng.randrange(7)) for _ in range(3000)]
    prepare("csv", [write(frame(rows), tmp_path, "csv")], tmp_path / "1")
    rng.shuffle(rows)
    half = len(rows) // 2
    (tmp_path / "parts").mkdir()
    frame(rows[:half]).write_parquet(tmp_path / "parts" / "part-0.parquet")
    frame(rows[half:]).write_parquet(tmp_path / "parts" / "part-1.parquet")
    prepare("parquet", [tmp_path / "parts"], tmp_path / "2")
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_a_folder_as_spark_writes_it_is_read_with_its_partitions(tmp_path, events):
    prepare("csv", [write(events, tmp_path, "csv")], tmp_path / "1", PrepareOptions(**NONE))
    for name in ("a", "b"):
        (tmp_path / "log" / f"domain={name}").mkdir(parents=True)
        part = events.filter(pl.col("domain") == name).drop("domain")
        part.write_parquet(tmp_path / "log" / f"domain={name}" / "part-00000.snappy.parquet")
    (tmp_path / "log" / "_SUCCESS").write_text("")
    (tmp_path / "log" / "_temporary").mkdir()
    (tmp_path / "log" / "_temporary" / "half.parquet").write_text("half a file")
    prepare("parquet", [tmp_path / "log"], tmp_path / "2", PrepareOptions(**NONE))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_a_file_for_each_domain(tmp_path, events):
    prepare("csv", [write(events, tmp_path, "csv")], tmp_path / "1", PrepareOptions(**NONE))
    domains = []
    for name in ("a", "b"):
        events.filter(pl.col("domain") == name).drop("domain").write_csv(tmp_path / f"{name}.csv")
        domains.append((name, tmp_path / f"{name}.csv"))
    options = PrepareOptions(**NONE, source=SourceOptions(domains=tuple(domains)))
    prepare("csv", [], tmp_path / "2", options)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_columns_of_any_name_and_ids_of_numbers(tmp_path, events):
    numbers = events.with_columns(pl.col("user", "item").str.slice(1).cast(pl.Int64)).rename(
        {"user": "who", "item": "what", "domain": "where", "time": "when"}
    )
    options = PrepareOptions(
        **NONE,
        source=SourceOptions(user_column="who", item_column="what", domain_column="where", time_column="when"),
    )
    for kind in ("csv", "parquet", "jsonl"):
        prepare(kind, [write(numbers, tmp_path, kind)], tmp_path / kind, options)
        assert files_of(tmp_path / kind) == files_of(tmp_path / "csv")
    assert set(pl.read_parquet(tmp_path / "csv" / "users.parquet")["raw"]) == {str(user) for user in range(12)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_in_seconds_milliseconds_dates_and_of_their_own_type(tmp_path, events, kind):
    events = events.with_columns(pl.col("time") + 1_400_000_000 // DAY * DAY)
    moment = pl.from_epoch("time", time_unit="s")
    forms = {
        "s": [events, events.with_columns(pl.col("time").cast(pl.Float64) + 0.25)],
        "ms": [events.with_columns(pl.col("time") * 1000 + 999)],
        "iso": [
            events.with_columns(moment.dt.strftime(form).alias("time"))
            for form in (
                "%Y-%m-%d",
                "%Y-%m-%dT%H:%M:%SZ",
                "%Y-%m-%d %H:%M:%S",
                "%Y-%m-%dT%H:%M:%S.25",
                "%Y-%m-%dT%H:%M:%S+00:00",
            )
        ],
    }
    if kind == "parquet":
        forms["iso"] += [events.with_columns(moment), events.with_columns(moment.dt.date())]
        forms["iso"] += [events.with_columns(moment.dt.replace_time_zone("UTC"))]
    number = 0
    for unit, tables in forms.items():
        for table in tables:
            number += 1
            out = tmp_path / str(number)
            options = PrepareOptions(**NONE, source=SourceOptions(time_unit=unit))
            prepare(kind, [write(table, tmp_path, kind)], out, options)
            assert files_of(out) == files_of(tmp_path / "1"), (unit, table["time"][0])


def test_blank_lines_quotes_and_a_byte_order_mark_do_not_matter(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b'\xef\xbb\xbfuser,item,time\r\nu,"a,b",1\r\n\r\nu,"say ""x""",2\r\nu,c,3\r\n\r\n')
    dataset = prepare("csv", [path], tmp_path / "d", PrepareOptions(**NONE))
    assert set(dataset.items("main")["raw"]) == {"a,b", 'say "x"', "c"}


def test_a_tsv_takes_quotes_as_they_are(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text('user\titem\ttime\nu\t"a\t1\nu\tb"\t2\nu\tc\t3\n')
    dataset = prepare("tsv", [path], tmp_path / "d", PrepareOptions(**NONE))
    assert set(dataset.items("main")["raw"]) == {'"a', 'b"', "c"}


def test_only_events_rated_high_enough_stay(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "user,item,time,stars\n" + "".join(f"u,i{place},{place},{place % 5 + 0.5}\n" for place in range(10))
    )
    options = PrepareOptions(**NONE, min_rating=2.5, source=SourceOptions(rating_column="stars"))
    dataset = prepare("csv", [path], tmp_path / "d", options)
    assert dataset.manifest.counts.events == 6
    assert dataset.manifest.counts.dropped == {"rating": 4}


def test_tables_are_filtered_to_a_core_of_five_unless_told_otherwise(tmp_path):
    rows = numbered(12, 6, 20)
    path = write(frame([*rows, ("lonely", "i0", "main", 1)]), tmp_path, "csv")
    dataset = prepare("csv", [path], tmp_path / "d", PrepareOptions(min_item=1))
    assert dataset.manifest.counts.users == 12
    assert dataset.manifest.counts.dropped == {"min_user": 1}
    assert dataset.manifest.filters["min_user"] == 5


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_titles_and_categories_come_from_the_item_table(tmp_path, events, kind):
    items = pl.DataFrame(
        {
            "asin": ["i0", "i1", "i0", "nowhere"],
            "name": ["Zero", "One", "again", "?"],
            "path": ["top|sub", "top", "x", "x"],
            "domain": ["a", "b", "a", "b"],
        }
    )
    if kind != "csv":
        items = items.with_columns(pl.col("path").str.split("|") if kind == "parquet" else pl.col("path"))
    options = PrepareOptions(
        **NONE,
        source=SourceOptions(
            domain_column="domain",
            items_file=write(items, tmp_path, kind).rename(tmp_path / f"items.{kind}"),
            item_id="asin",
            title="name",
            category="path",
        ),
    )
    dataset = prepare("csv", [write(events, tmp_path, "csv")], tmp_path / "d", options)
    told = dataset.items("a").filter(pl.col("raw") == "i0").row(0, named=True)
    assert (told["title"], told["category"]) == ("Zero", ["top", "sub"])
    assert dataset.items("b").filter(pl.col("raw") == "i1")["title"].to_list() == ["One"]
    assert dataset.manifest.counts.dropped == {
        "rows of the item table with a repeated id": 1,
        "item metadata without events": 1,
    }


@pytest.mark.parametrize("extra", [0, 3])
def test_an_item_table_without_domains_counts_each_of_its_rows_once(tmp_path, events, extra):
    """Its rows tell of every domain; an item that one of them has is not left out."""
    items = [f"i{number}" for number in range(20)] + ["nowhere"] * min(extra, 1) + ["i3"] * extra
    table = write(pl.DataFrame({"item": items}), tmp_path, "csv").rename(tmp_path / "items.csv")
    options = PrepareOptions(**NONE, source=SourceOptions(domain_column="domain", items_file=table))
    dataset = prepare("csv", [write(events, tmp_path, "csv")], tmp_path / "d", options)
    assert dataset.num_domains > 1
    used = {raw for name in dataset.manifest.domains for raw in dataset.items(name)["raw"]}
    expected = {"item metadata without events": 20 - len(used) + min(extra, 1)}
    expected |= {"rows of the item table with a repeated id": extra}
    assert dataset.manifest.counts.dropped == {reason: number for reason, number in expected.items() if number}


def test_the_command_prepares_and_inspects(tmp_path, events, capsys):
    path = write(events.rename({"user": "who"}), tmp_path, "csv")
    arguments = ["prepare", "csv", str(path), "--out", str(tmp_path / "d"), "--user-column", "who"]
    arguments += ["--min-user", "1", "--min-item", "1", "--split", "loo-mixed", "--tie", "id", "--seed", "3"]
    assert mdrec(*arguments) == 0
    shown = capsys.readouterr().out
    assert "12 users  12 sequences  20 items  72 events  train 48  validation 12  test 12" in shown
    assert mdrec("inspect", str(tmp_path / "d")) == 0
    assert capsys.readouterr().out == shown
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert (manifest["seed"], manifest["tie"], manifest["split"]["rule"]) == (3, "id", "loo-mixed")


def test_a_dataset_can_be_extended_in_place(tmp_path, events, capsys):
    first = events.filter(pl.col("user") < "u5")
    out = str(tmp_path / "d")
    options = ["--out", out, "--min-user", "1", "--min-item", "1"]
    assert mdrec("prepare", "csv", str(write(first, tmp_path, "csv")), *options) == 0
    old = open_dataset(out)
    users, items = old.users()["raw"].to_list(), dict(old.items("a").select("raw", "id").iter_rows())
    assert mdrec("prepare", "csv", str(write(events, tmp_path, "csv")), *options, "--extend", out) == 0
    new = open_dataset(out, verify=True)
    assert new.manifest.parents == (Parent(old.hash, old.manifest.counts.items),)
    assert new.users()["raw"].to_list()[: len(users)] == users
    assert new.num_users == 12
    assert items.items() <= dict(new.items("a").select("raw", "id").iter_rows()).items()


def test_the_leak_probe_sees_order_in_raw_ids_and_none_in_ours(tmp_path, capsys):
    rows = [(f"u{user}", 3 * user + place, "main", place * DAY) for user in range(300) for place in range(5)]
    path = write(frame([(user, str(item), domain, time) for user, item, domain, time in rows]), tmp_path, "csv")
    assert mdrec("prepare", "csv", str(path), "--out", str(tmp_path / "d"), "--min-user=1", "--min-item=1") == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("main")).split()
    ours, raw = (float(cell.rstrip("%")) for cell in row[-3:-1])
    assert raw == 100.0
    assert ours < 8
    assert "note: in main the order of raw ids finds 100.0% of the test targets" in shown
