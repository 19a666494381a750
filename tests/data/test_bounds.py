"""Small files do not exhaust memory or time: what a file declares, repeats or packs is bounded by what it can hold."""

import bz2
import gzip
import json
import lzma
import pickle
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import compression
from mdrec_jax.data.sources.formats import column_names, scan
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.reading import read_lines, tar_members
from mdrec_jax.data.sources.safe_pickle import load_plain
from mdrec_jax.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NONE = PrepareOptions(min_user=1, min_item=1)
LOG = "user,item,time\n" + "".join(f"u{user},i{place},{place + 1}\n" for user in range(3) for place in range(4))


def test_a_declared_number_of_items_is_bounded_by_those_that_occur(tmp_path):
    folder = tmp_path / "Food"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}_data.txt").write_text("0\t1\t2\t3\n1\t3\t2\t1\n")
    (folder / "num_items.txt").write_text("200000000")
    with pytest.raises(InputError, match="more items than the data can hold") as caught:
        prepare("fkcb", [tmp_path], tmp_path / "d", NONE)
    assert caught.value.file == folder / "num_items.txt"


@pytest.mark.parametrize("times", [2, 20_000])
def test_a_pickle_that_holds_one_list_in_many_places(tmp_path, times):
    shared: list[object] = list(range(300))
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(dict.fromkeys(range(times), shared)))
    if times == 2:
        assert load_plain(path) == {0: shared, 1: shared}
        return
    with pytest.raises(InputError, match="the same things over and over"):
        load_plain(path)
    for _ in range(30):  # each list holds the one before twice
        shared = [shared, shared]
    shared.append(shared)
    path.write_bytes(pickle.dumps(shared))
    with pytest.raises(InputError, match="the same things over and over"):
        load_plain(path)


def read(path: Path, out: Path) -> None:
    if ".txt" in path.name:
        list(read_lines(path))
    else:
        prepare(path.name.split(".")[1], [path], out, NONE)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz", "log.tsv.gz", "list.txt.gz"])
def test_a_line_that_a_packed_file_hides_is_not_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(compression, "MAX_RECORD", 1 << 20)
    path = tmp_path / name
    head = b'{"user": "u", "item": "i"}\n' if "json" in name else b"user\titem\n" if "tsv" in name else b"user,item\n"
    path.write_bytes(gzip.compress(head + b"x" * (20 << 20), 1))
    with pytest.raises(InputError, match="too long") as caught:
        read(path, tmp_path / "d")
    assert caught.value.row == 2
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "MAX_RATIO", 2)
    path.write_bytes(gzip.compress(head * (1 << 20), 1))
    with pytest.raises(InputError, match="unpacks to more than is allowed"):
        read(path, tmp_path / "d")


def test_many_columns_are_read_in_time_that_grows_with_them(tmp_path):
    path = tmp_path / "wide.csv"
    names = ["user", "item", "time", *(f"c{place}" for place in range(50_000))]
    row = ",x" * 50_000
    path.write_text(",".join(names) + "\n" + "".join(f"u,i{place},{place}{row}\n" for place in range(8)))
    begin = time.perf_counter()
    assert prepare("csv", [path], tmp_path / "d", NONE).manifest.counts.events == 8
    assert time.perf_counter() - begin < 20
    path.write_text(",".join(f"c{place}" for place in range(200_000)) + "\n")
    with pytest.raises(InputError, match="too many columns"):
        column_names(path, "csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["user", "item", "domain"])
def test_an_endless_id_is_refused(tmp_path, kind, column):
    frame = pl.DataFrame({"user": ["u"] * 4, "item": ["a", "b", "c", "d"], "domain": ["x"] * 4, "time": [1, 2, 3, 4]})
    frame[2, column] = "é" * 1_000_000
    path = tmp_path / f"log.{kind}"
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind]
    write(path)
    with pytest.raises(InputError, match="too long a name") as caught:
        prepare(kind, [path], tmp_path / "d", NONE)
    assert (caught.value.row, caught.value.column) == (4 if kind == "csv" else 3, column)


def test_files_of_one_packed_file_are_read(tmp_path):
    prepare("csv", [write(tmp_path / "log.csv", LOG.encode())], tmp_path / "plain", NONE)
    packers = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress, "zst": zstd.compress}
    for ending, pack in packers.items():
        made = prepare("csv", [write(tmp_path / f"log.csv.{ending}", pack(LOG.encode()))], tmp_path / ending, NONE)
        assert made.manifest.counts.events == 12
    path = tmp_path / "log.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", LOG)
        archive.writestr("__MACOSX/._log.csv", "x")
    assert prepare("csv", [path], tmp_path / "zip", NONE).manifest.counts.events == 12
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", LOG)
    with pytest.raises(InputError, match="a zip of several files"):
        prepare("csv", [path], tmp_path / "d", NONE)
    with pytest.raises(InputError, match="truncated or damaged"):
        prepare("csv", [write(tmp_path / "bad.csv.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 20)], tmp_path / "d", NONE)
    for ending in ("bz2", "xz", "gz", "zst", "zip"):
        whole = (tmp_path / f"log.csv.{ending}").read_bytes()
        with pytest.raises(InputError, match="truncated or damaged"):
            prepare("csv", [write(tmp_path / f"half.csv.{ending}", whole[: len(whole) // 2])], tmp_path / "d", NONE)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_sparse_file_in_an_archive_is_refused(tmp_path):
    header = bytearray(512)
    header[:1], header[100:108] = b"x", b"0000644\0"
    header[124:136], header[156:157], header[257:265] = b"00000000000\0", b"S", b"ustar  \0"
    header[386:410] = b"00000000000\0" + b"00000000000\0"
    header[483:495] = b"17777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = write(tmp_path / "x.tar", bytes(header) + b"\0" * 1024)
    with pytest.raises(InputError, match=r"sparse|unpacks to more"):
        list(tar_members(path))


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "tsv"])
def test_a_whole_number_is_one_id_however_it_is_written(tmp_path, kind):
    whole = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [13, 14, 15, 13, 14, 15], "time": [1, 2, 3, 1, 2, 3]})
    files = []
    for name, frame in (("a", whole), ("b", whole.with_columns(pl.col("user", "item").cast(pl.Float64)))):
        files.append(tmp_path / f"{name}.{kind}")
        if kind == "jsonl":
            files[-1].write_text("".join(json.dumps(record) + "\n" for record in frame.to_dicts()))
        elif kind == "parquet":
            frame.write_parquet(files[-1])
        else:
            frame.write_csv(files[-1], separator="," if kind == "csv" else "\t")
    made = prepare(kind, files, tmp_path / "d", NONE)
    assert sorted(made.users()["raw"]) == ["1", "2"]
    assert sorted(made.items("main")["raw"]) == ["13", "14", "15"]


def test_a_list_or_an_object_is_no_id_and_a_text_that_looks_like_one_is(tmp_path):
    path = tmp_path / "log.jsonl"
    good = '\ufeff{"user": "[u]", "item": "{i}", "time": 1}\n'
    path.write_text(good, encoding="utf-8")
    assert scan(path, "jsonl", ["user", "item"]).collect().rows() == [(1, "[u]", "{i}")]
    for value, found in (('{"id": 3}', "an object"), ("[3]", "a list")):
        path.write_text(f'{good}\n{{"user": "u", "item": {value}, "time": 2}}\n', encoding="utf-8")
        with pytest.raises(InputError, match="not a single value") as caught:
            prepare("jsonl", [path], tmp_path / "d", NONE)
        assert (caught.value.row, caught.value.column, caught.value.found) == (3, "item", found)


def test_lists_in_columns_that_are_not_read_do_not_matter(tmp_path):
    lines = [f'{{"tags": [1, {{"a": 2}}], "user": "u{n % 4}", "item": "i{n // 4}"}}\n' for n in range(20)]
    path = write(tmp_path / "log.jsonl", "".join(lines).encode())
    assert prepare("jsonl", [path], tmp_path / "d", NONE).manifest.counts.events == 20


def test_json_that_is_too_deep_and_a_number_of_too_many_digits(tmp_path):
    path = tmp_path / "log.jsonl"
    for value in ("[" * 100_000 + "]" * 100_000, "9" * 5_000):
        path.write_text('{"user": "u", "item": "i", "time": 1}\n{"user": "u", "x": ' + value + "}\n")
        with pytest.raises(InputError) as caught:
            prepare("jsonl", [path], tmp_path / "d", NONE)
        assert caught.value.row == 2


def test_damaged_parquet_is_a_message(tmp_path):
    path = tmp_path / "log.parquet"
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(50, size=2000), "item": rng.integers(50, size=2000)})
    frame.with_columns(pl.all().cast(pl.String), time=pl.int_range(2000)).write_parquet(path)
    whole = path.read_bytes()
    for place in rng.integers(len(whole), size=25).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            made = prepare("parquet", [path], tmp_path / "d", NONE)
        except InputError as error:
            assert error.file == path or error.file is None  # noqa: PT017
        else:
            assert made.manifest.counts.events == 2000


def test_an_item_table_counts_every_row(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("item,title\n" + "".join(f"i{place}.0,t\n" for place in range(4)) + ",no id\n")
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(items_file=items))
    with pytest.raises(InputError, match="an item without an id") as caught:
        prepare("csv", [write(tmp_path / "log.csv", LOG.encode())], tmp_path / "d", options)
    assert caught.value.row == 6


def test_a_little_zstd_that_unpacks_to_much_is_refused_and_never_in_memory(tmp_path):
    """As a run of one byte it packs 20,000 times smaller."""
    path = write(tmp_path / "bomb.csv.zst", zstd.compress(b"user,item\n" + b"u,i\n" * (17 << 20)))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="unpacks to more than is allowed"):
        prepare("csv", [path], tmp_path / "d", NONE)
