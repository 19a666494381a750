"""Tables as other people have them: rows to be left out, no header, another separator, a split made elsewhere."""

from pathlib import Path

import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import blocks
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError
from tests.command import mdrec

ROWS = [(f"u{user}", f"i{place}", str(1_400_000_000 + 100 * user + place)) for user in range(6) for place in range(5)]
SKIP = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(skip_bad_rows=True))


@pytest.mark.parametrize("block", [200, 1 << 20])
def test_bad_rows_are_counted_by_reason_and_all_others_are_read(tmp_path, monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    lines = [",".join((*row, "ok")).encode() for row in ROWS]
    lines[3] = lines[3].removesuffix(b"ok") + b'pipe 6" long'
    lines[4] = lines[4].removesuffix(b"ok") + b'"begins here'
    lines[5] = lines[5].removesuffix(b"ok") + b'"a legal\nfield, ""quoted"""'
    lines[9] += b",more"
    lines[12] = "u2,caf\u00e9,1400000202,ok".encode("latin-1")
    lines[15] = b"u3,,1400000300,ok"
    lines[16] = b"u3,i1,yesterday,ok"
    lines[17] = b""
    lines[20] = lines[20].removesuffix(b"ok") + b'8" pipe'
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,time,title\n" + b"\n".join(lines) + b"\n")
    with pytest.raises(InputError):
        prepare("csv", [path], tmp_path / "d", PrepareOptions(min_user=1, min_item=1))
    counts = prepare("csv", [path], tmp_path / "d", SKIP).manifest.counts
    assert counts.dropped == {
        "rows that are not UTF-8": 1,
        "rows with a stray quote or carriage return": 3,
        "rows with too many fields": 1,
        "rows without a usable item": 1,
        "rows without a usable time": 1,
    }
    assert counts.events == 30 - 7 - 1  # the blank line is no row


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "parquet"])
def test_bad_rows_of_other_formats_are_left_out_too(tmp_path, kind):
    path = tmp_path / f"log.{kind}"
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    if kind == "parquet":
        frame = frame.with_columns(item=pl.when(pl.col("item") != "i3").then("item"))
        frame.write_parquet(path)
        dropped = {"rows without a usable item": 6}
    elif kind == "tsv":
        path.write_text(frame.write_csv(separator="\t").replace("u1\ti1", "u1\ti1\tmore"))
        dropped = {"rows with too many fields": 1}
    else:
        text = frame.write_ndjson().replace('"i1"', '["i1"]', 1).replace('{"user":"u2"', '{"user":"u2"x', 2)
        path.write_text(text)
        dropped = {"rows that are no JSON object": 2, "rows with a list or an object for a value": 1}
    counts = prepare(kind, [path], tmp_path / "d", SKIP).manifest.counts
    assert (counts.dropped, counts.events) == (dropped, 30 - sum(dropped.values()))


def test_the_summary_shows_what_was_left_out(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(",".join(row) + "\n" for row in ROWS) + "u0,i1,never\n")
    arguments = ["prepare", "csv", path, "--out", tmp_path / "d", "--min-user=1", "--min-item=1"]
    assert mdrec(*arguments) == 2
    assert mdrec(*arguments, "--bad-rows", "skip") == 0
    assert "rows without a usable time 1" in capsys.readouterr().out


@pytest.mark.parametrize("separator", [";", "|", "\\t"])
def test_a_table_without_a_header_and_with_a_separator(tmp_path, separator):
    path = tmp_path / "log.csv"
    between = separator.replace("\\t", "\t")
    path.write_text("".join(between.join((row[2], f'"{row[0]}"', row[1])) + "\n" for row in ROWS))
    arguments = ["prepare", "csv", path, "--out", tmp_path / "d", "--min-user=1", "--min-item=1", "--no-header"]
    columns = ["--user-column", "2", "--item-column", "3", "--time-column", "1"]
    assert mdrec(*arguments, *columns, "--separator", separator) == 0
    path.write_text("".join(between.join((row[2], row[0], row[1])) + "\n" for row in [*ROWS, ("", "", "soon")]))
    assert mdrec(*arguments, *columns, "--separator", separator) == 2
    assert mdrec(*arguments, "--separator", "::") == 2
    assert mdrec(*arguments, "--separator", between) == 2  # which column is what?


def test_files_of_a_split_made_elsewhere(tmp_path):
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    place = pl.int_range(pl.len()) % 5
    for name, keep in (("train", place < 3), ("validation", place == 3), ("test", place == 4)):
        frame.filter(keep).write_csv(tmp_path / f"{name}.csv")
    files = [item for name in ("train", "validation", "test") for item in (f"--{name}-file", tmp_path / f"{name}.csv")]
    assert mdrec("prepare", "csv", *files, "--out", tmp_path / "d") == 0
    given = tuple((name, tmp_path / f"{name}.csv") for name in ("train", "validation", "test"))
    made = prepare("csv", [], tmp_path / "e", PrepareOptions(source=SourceOptions(given=given)))
    assert made.manifest.split["rule"] == "given"
    assert made.manifest.counts.roles == {"train": 18, "validation": 6, "test": 6, "context": 0}
    with pytest.raises(InputError, match="give either --train-file"):
        prepare("csv", [Path("x")], tmp_path / "e", PrepareOptions(source=SourceOptions(given=given)))
    with pytest.raises(InputError, match="no use for --train-file"):
        prepare("s3rec", [tmp_path], tmp_path / "e", PrepareOptions(source=SourceOptions(given=given)))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_bad_rows_of_an_item_table_are_counted_and_all_others_are_read(tmp_path, kind):
    log, items = tmp_path / "log.csv", tmp_path / f"items.{kind}"
    log.write_text("user,item,time,shop\n" + "".join(",".join(row) + ",A\n" for row in ROWS))
    rows = [(f"i{place}", f"title {place}", "A") for place in range(5)]
    rows += [(None, "no id", "A"), ("i1", "elsewhere", "Z"), ("i2", "again", "A"), ("i3", "nowhere", None)]
    frame = pl.DataFrame(rows, schema=["item", "title", "shop"], orient="row")
    dropped = {
        "rows of the item table about a domain without events": 1,
        "rows of the item table without a usable domain": 1,
        "rows of the item table without a usable item": 1,
        "rows of the item table with a repeated id": 1,
    }
    if kind == "parquet":
        frame.write_parquet(items)
    elif kind == "csv":
        text = frame.write_csv().replace("title 4,A", '6" pipe,A').replace("title 0,", '"a legal\n""line""",')
        items.write_text(text)
        dropped["rows of the item table with a stray quote or carriage return"] = 1
    else:
        items.write_text(frame.write_ndjson().replace('"i4",', '"i4"', 1))
        dropped["rows of the item table that are no JSON object"] = 1
    source = SourceOptions(domain_column="shop", items_file=items)
    with pytest.raises(InputError) as caught:
        prepare("csv", [log], tmp_path / "d", PrepareOptions(min_user=1, min_item=1, source=source))
    assert caught.value.file == items
    options = PrepareOptions(
        min_user=1, min_item=1, source=SourceOptions(domain_column="shop", items_file=items, skip_bad_rows=True)
    )
    made = prepare("csv", [log], tmp_path / "d", options)
    assert made.manifest.counts.dropped == dropped
    read = made.items("A")["title"].drop_nulls().len()
    assert read + sum(dropped.values()) == len(rows)


def test_a_bad_row_that_is_skipped_does_not_stand_in_for_what_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    lines = ["u,i,ok,1400000000", 'u,j,6" pipe,1400000001', "u,k,ok,1400000002", "u,l,ok,1400000"]
    path.write_text("user,item,title,time\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="times of two units") as caught:
        prepare("csv", [path], tmp_path / "d", SKIP)
    assert (caught.value.row, caught.value.column) == (5, "time")
