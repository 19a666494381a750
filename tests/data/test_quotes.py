"""No row of a text table gets lost behind a quote: every record is read, or the table is refused with its row."""

import csv
import io
import random
from pathlib import Path

import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import blocks, compression
from mdrec_jax.data.sources.formats import column_names, record_at, records, scan
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError

ROWS = [(f"u{user}", f"i{place}", str(1_400_000_000 + 100 * user + place)) for user in range(6) for place in range(5)]


def table(path: Path, titles: dict[int, str], end: str = "\n") -> Path:
    """ROWS with a title each, as it is written, in the file's last column."""
    lines = ["user,item,time,title", *(",".join((*row, titles.get(n, "ok"))) for n, row in enumerate(ROWS))]
    path.write_text(end.join(lines) + end, newline="")
    return path


def read(path: Path, **options) -> pl.DataFrame:
    return scan(path, "csv", column_names(path, "csv"), **options).collect()


@pytest.mark.parametrize(
    ("titles", "row", "problem"),
    [
        ({3: 'pipe 6" long', 20: 'pipe 8" long'}, 5, "a quote inside a field"),
        ({3: 'pipe 6"', 20: '"fine"', 21: '7"'}, 5, "a quote inside a field"),
        ({3: '"Weird Al" sings'}, 5, "does not end at its closing quote"),
        ({3: '"no end', 9: '"fine"'}, 5, "does not end at its closing quote"),
        ({3: '"no end'}, 5, "never closed"),
        ({3: '"begins', 20: 'ends"'}, 5, "each of which looks like a row"),
        ({3: '"begins', 4: 'ends"'}, 5, "each of which looks like a row"),
        ({3: 'a "word" inside'}, 5, "a quote inside a field"),
        ({3: ' "after a space"'}, 5, "a quote inside a field"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_stray_quote_is_refused_at_its_row(tmp_path, monkeypatch, titles, row, problem, end, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    path = table(tmp_path / "log.csv", titles, end)
    with pytest.raises(InputError, match=problem) as caught:
        prepare("csv", [path], tmp_path / "d", PrepareOptions(min_user=1, min_item=1))
    assert (caught.value.file, caught.value.row) == (path, row)


def test_a_stray_quote_of_an_item_table_is_refused(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text('item,price,title\ni0,5,a\ni1,6,6" pipe\ni2,7,b\ni3,8,8" pipe\ni4,9,c\n')
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(items_file=items, title="price"))
    with pytest.raises(InputError, match="a quote inside a field") as caught:
        prepare("csv", [table(tmp_path / "log.csv", {})], tmp_path / "d", options)
    assert (caught.value.file, caught.value.row) == (items, 3)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("block", [16, 101, 1 << 20])
def test_what_rfc_4180_allows_is_read_in_full(tmp_path, monkeypatch, end, last, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(compression, "MAX_RECORD", 1 << 20)
    rng = random.Random(block)
    pieces = ["", "a", 'b"c', "d,e", "f\ng", 'h\r\n"i"', "ü", '""', "\n\n", ",", '"', " "]
    rows = [[str(n), rng.choice(pieces) + rng.choice(pieces), rng.choice(pieces)] for n in range(300)]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([["id", "x", "y"], *rows])
    content = text.getvalue() if last else text.getvalue().removesuffix(end)
    if block == 101:  # blank lines are no records, wherever they stand outside of quotes
        content = end + content.replace(f"{end}150,", f"{end}{end}{end}150,") + end
    path = tmp_path / "log.csv"
    path.write_text(content, newline="", encoding="utf-8")
    frame = read(path)
    assert [[value or "" for value in row] for row in frame.drop("_row").rows()] == rows
    lines = content.split("\n")
    for row, number in frame.select("_row", "id").rows():
        assert lines[row - 1].startswith(f"{number},")
    assert [(row, record["x"]) for row, record in records(path, "csv")] == [
        (row, value or "") for row, value in frame.select("_row", "x").rows()
    ]
    assert record_at(path, "csv", frame["_row"][200])["id"] == "200"


def test_a_row_of_empty_fields_is_no_blank_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,title\nu,i,x\n\n,,lost\nu,j,x\n")
    with pytest.raises(InputError, match="missing value") as caught:
        prepare("csv", [path], tmp_path / "d", PrepareOptions(min_user=1, min_item=1))
    assert caught.value.row == 4


@pytest.mark.parametrize("rows", [3, 20_000])
def test_too_many_fields_are_found_wherever_they_stand(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 16)
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "u,i\n" * rows + "u,i,more\n" + "u,i\n")
    with pytest.raises(InputError, match="too many fields") as caught:
        read(path)
    assert caught.value.row == rows + 2


def test_lines_that_end_in_a_lone_return_are_read_and_a_stray_one_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item\ru,a\ru,b\r")
    assert read(path).rows() == [(2, "u", "a"), (3, "u", "b")]
    path.write_bytes(b"user,item\nu,a\nu,b\rv,c\n")
    with pytest.raises(InputError, match="a carriage return inside a line") as caught:
        read(path)
    assert caught.value.row == 3


def test_latin_1_is_refused_at_its_own_row(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item\n" + b"u,i\n" * 5000 + "u,caf\u00e9\n".encode("latin-1") + b"u,i\n" * 50)
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        read(path)
    assert caught.value.row == 5002


def test_a_field_of_any_length_and_a_record_that_is_too_long(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(f'user,item,text\nu,a,"{"x," * 100_000}"\nu,b,{"y" * 200_000}\n')
    assert read(path).select(pl.col("text").str.len_bytes()).to_series().to_list() == [200_000, 200_000]
    assert [len(str(record["text"])) for _, record in records(path, "csv")] == [200_000, 200_000]
    monkeypatch.setattr(compression, "MAX_RECORD", 150_000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100_000)
    with pytest.raises(InputError, match="too long") as caught:
        read(path)
    assert caught.value.row == 2
