"""Damaged files, 400 a reader: each is read in full, or refused with a message; nothing else may come out."""

import csv
import gzip
import io
import json
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from mdrec_jax.data.prepare.assemble import assemble
from mdrec_jax.data.prepare.options import PrepareOptions
from mdrec_jax.data.sources import SOURCES, find_source
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import MdrecError
from tests.data import test_source_abxi, test_source_fkcb, test_source_ml1m, test_source_tiktok
from tests.data.test_source_kuairand import MEMBERS, packed

CASES = 400
ROWS = [
    (f"u{user}", f"i{(user * 3 + place) % 9}", 1_400_000_000 + user * 50 + place)
    for user in range(5)
    for place in range(5)
]
FRAME = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row").with_columns(title=pl.lit('a "b", c'))
TOKENS = [
    b'"', b'""', b",", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"9" * 30, b"9" * 5000, b"-1",
    b"nan", b"1e999", b"[" * 3000, b"{", b"}", b"]", b"::", b"|", b" ", b"null", b"\xed\xa0\x80", b"x" * 200_000,
    b"1.0", b"_",
]  # fmt: skip


def _csv(folder: Path) -> None:
    FRAME.write_csv(folder / "log.csv")


def _tsv(folder: Path) -> None:
    FRAME.with_columns(title=pl.lit("t")).write_csv(folder / "log.tsv", separator="\t")


def _parquet(folder: Path) -> None:
    FRAME.write_parquet(folder / "log.parquet")


def _jsonl(folder: Path) -> None:
    FRAME.write_ndjson(folder / "log.jsonl")


def _amazon(folder: Path) -> None:
    lines = [{"reviewerID": user, "asin": item, "unixReviewTime": when, "overall": 4.0} for user, item, when in ROWS]
    meta = [{"asin": f"i{n}", "title": "t", "category": ["a", "b"], "brand": "x"} for n in range(9)]
    (folder / "B.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "meta_B.json.gz").write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in meta).encode()))


def _movielens(folder: Path) -> None:
    rows = "".join(f"{user[1:]},{item[1:]},4.0,{when}\n" for user, item, when in ROWS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    (folder / "movies.csv").write_text('movieId,title,genres\n1,"A, b",Comedy|Drama\n2,C,(no genres listed)\n')


def _recbole(folder: Path) -> None:
    rows = "".join(f"{user}\t{item}\t{when}\n" for user, item, when in ROWS)
    (folder / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    (folder / "x.item").write_text("item_id:token\ttitle:token\tclass:token_seq\ni1\tT\ta b\ni2\tU\t\n")


def _s3rec(folder: Path) -> None:
    (folder / "T.txt").write_text("".join(f"{user} 1 2 3 {user}\n" for user in range(1, 6)))
    (folder / "T_item2attributes.json").write_text(json.dumps({str(n): ["b", "c"] for n in range(1, 6)}))


def _xmarket(folder: Path) -> None:
    rows = "".join(f"{user} {item} 4.0 2015-01-{1 + when % 28:02}\n" for user, item, when in ROWS)
    (folder / "de_5core.txt").write_text("userId itemId rate date\n" + rows)


def _kuairand(folder: Path) -> None:
    for name, records in MEMBERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(packed(records))


def _ml1m(folder: Path) -> None:
    test_source_ml1m.folder_of(folder, negatives={0: [1, 2], 1: [0, 3]})


def _fkcb(folder: Path) -> None:
    test_source_fkcb.domain_in(folder, "Food", candidates=test_source_fkcb.NEGATIVES)


BUILD: dict[str, Callable[[Path], object]] = {
    "csv": _csv, "tsv": _tsv, "parquet": _parquet, "jsonl": _jsonl, "amazon": _amazon, "movielens": _movielens,
    "recbole": _recbole, "s3rec": _s3rec, "xmarket": _xmarket, "kuairand": _kuairand, "ml1m": _ml1m, "fkcb": _fkcb,
    "abxi": test_source_abxi.folder_of, "tiktok": test_source_tiktok.folder_of,
}  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """`content` with one to three faults."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        try:
            return gzip.compress(damaged(gzip.decompress(content), rng), 1)
        except (EOFError, zlib.error, OSError):
            pass
    for _ in range(rng.randint(1, 3)):
        place, size = rng.randrange(len(content) + 1), rng.randint(1, 40)
        kind = rng.randrange(6)
        if kind == 0:
            content = content[:place] + rng.choice(TOKENS) + content[place:]
        elif kind == 1:
            content = content[:place] + content[place + size :]
        elif kind == 2:
            content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
        elif kind == 3:
            content = content[:place]
        elif kind == 4:
            content = content[:place] + content[place : place + size] * rng.randint(2, 4) + content[place:]
        else:
            content = content[:place] + rng.choice(TOKENS) + content[place + rng.randint(0, 8) :]
    return content


def records_in(source: str, content: bytes) -> int:
    """How many records a sound text table has, by the standard library."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode()
    text = text if "\n" in text else text.replace("\r", "\n")
    if source == "csv":
        return len([row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]) - 1
    lines = [line for line in text.split("\n") if line.strip("\r" if source == "tsv" else None)]
    return len(lines) - (source == "tsv")


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("source", SOURCES)
def test_a_damaged_file_is_read_in_full_or_refused(tmp_path, source):
    rng = random.Random(f"{os.environ.get('FUZZ_SEED', '')}{source}")
    BUILD[source](tmp_path)
    whole = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    options = PrepareOptions(min_user=1, min_item=1, source=SourceOptions())
    read, refused = 0, 0
    for case in range(CASES):
        path = rng.choice(list(whole))
        content = damaged(whole[path], rng)
        path.write_bytes(content)
        try:
            made = assemble(find_source(source)([tmp_path], options.source), options, None)
        except MdrecError:
            refused += 1
        except BaseException as error:
            pytest.fail(f"case {case} of {source}, {path.name}: {error!r} from {content[:3000]!r}")
        else:
            read += 1
            if source in ("csv", "tsv", "jsonl"):
                assert len(made.events) == records_in(source, content), f"case {case}: {content!r}"
        path.write_bytes(whole[path])
    assert read > 0
    assert refused > CASES // 10
