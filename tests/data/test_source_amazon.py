"""Amazon Reviews of 2018 and 2023: reviews and metadata as JSON lines, a domain a file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources.amazon import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError


def old(user: str, item: str, time: int, rating: float = 5.0, **more: Any) -> dict[str, Any]:
    noise = {"verified": True, "reviewText": 'good, "very" good\n\u00e9', "style": {"Size:": " 1"}, "vote": None}
    return {"overall": rating, "reviewerID": user, "asin": item, "unixReviewTime": time, **noise, **more}


def new(user: str, item: str, time: int, rating: float = 5.0) -> dict[str, Any]:
    return {
        "rating": rating,
        "title": "A title of a review",
        "images": [{"small": "x"}],
        "asin": "variant",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time * 1000 + 7,
    }


META_2018 = [
    {
        "asin": "B1",
        "title": "Soap",
        "category": ["Beauty", "Bath", "Soap"],
        "brand": "Acme",
        "also_buy": ["B2"],
        "price": "",
    },
    {"asin": "B2", "title": "", "category": [], "brand": ""},
    {"asin": "B1", "title": "Soap again", "category": ["Other"], "brand": "Other"},
    {"asin": "B9", "title": "Never reviewed"},
]
META_2023 = [
    {"parent_asin": "B1", "title": "Soap", "categories": ["Beauty", "Soap"], "store": "Acme", "details": {"a": "b"}},
    {"parent_asin": "B2", "title": None, "categories": [], "store": None, "main_category": "All Beauty"},
]


def lines(path: Path, rows: list[Any]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_reviews_of_2018_are_read(tmp_path: Path):
    path = lines(tmp_path / "All_Beauty_5.json.gz", [old("A1", "B1", 1_400_000_000), old("A2", "B2", 1_400_000_001, 1)])
    log = read([path], SourceOptions())
    assert log.events.collect().select("user", "item", "domain", "event", "time", "rating").rows() == [
        ("A1", "B1", "All_Beauty", "review", 1_400_000_000, 5.0),
        ("A2", "B2", "All_Beauty", "review", 1_400_000_001, 1.0),
    ]
    assert (log.items_across, log.default_split, log.has_time) == ("shared", "loo", True)


def test_reviews_of_2023_are_read_under_the_parent_product_and_in_milliseconds(tmp_path: Path):
    path = lines(tmp_path / "All_Beauty.jsonl.gz", [new("A1", "B1", 1_600_000_000, 3)])
    log = read([path], SourceOptions())
    assert log.events.collect().select("user", "item", "domain", "time", "rating").rows() == [
        ("A1", "B1", "All_Beauty", 1_600_000_000, 3.0)
    ]


@pytest.mark.parametrize(("ending", "make", "meta"), [("json.gz", old, META_2018), ("jsonl", new, META_2023)])
def test_metadata_gives_titles_paths_and_brands(tmp_path: Path, ending: str, make, meta: list[dict[str, Any]]):
    lines(tmp_path / f"Beauty.{ending}", [make("A1", "B1", 5), make("A1", "B2", 6)])
    lines(tmp_path / f"meta_Beauty.{ending}", meta)
    log = read([tmp_path], SourceOptions())
    items = {row[0]: row[1:] for row in log.items["Beauty"].rows()}
    assert items["B1"] == ("Soap", meta[0].get("category") or meta[0]["categories"], ["Acme"])
    assert items["B2"] == (None, [], [])
    assert log.dropped == ({"rows of metadata with a repeated id": 1} if len(meta) == 4 else {})
    assert len(log.files) == 2


def test_several_files_are_domains_that_share_users_and_items(tmp_path: Path):
    for name in ("Beauty", "Books"):
        rows = [old(f"A{user}", f"B{item}", 10 * user + item) for user in range(3) for item in range(3)]
        lines(tmp_path / f"reviews_{name}_5.json.gz", rows)
    (tmp_path / "LICENCE").write_text("a note beside the data")
    dataset = prepare("amazon", [tmp_path], tmp_path / "out", PrepareOptions(min_user=1, min_item=1))
    counts = dataset.manifest.counts
    assert dataset.manifest.domains == ("Beauty", "Books")
    assert (counts.users, counts.items, counts.events) == (3, 3, 18)


def test_a_domain_may_be_given_another_name(tmp_path: Path):
    path = lines(tmp_path / "Beauty.json", [old("A1", "B1", 5)])
    meta = lines(tmp_path / "meta_Beauty.json", META_2018)
    log = read([], SourceOptions(domains=(("B", path), ("B", meta))))
    assert (log.domains, list(log.items)) == (("B",), ["B"])


@pytest.mark.parametrize(
    ("bad", "column"),
    [
        (old("A1", "B1", 5) | {"unixReviewTime": "yesterday"}, "unixReviewTime"),
        (old("A1", "B1", -5), "unixReviewTime"),
        (old("A1", "", 5), "asin"),
        ({key: value for key, value in old("A1", "B1", 5).items() if key != "reviewerID"}, "reviewerID"),
        (old("A1", "B1", 5, -1.0), "overall"),
        ('{"overall": NaN, "reviewerID": "A", "asin": "B", "unixReviewTime": 5}', None),
        ('{"overall": 5.0, "reviewerID": "A1", "asin', None),
        ("[1, 2]", None),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, bad: Any, column: str | None):
    path = lines(tmp_path / "Beauty.json.gz", [old("A1", "B1", 5), old("A1", "B2", 6), bad, old("A1", "B3", 7)])
    with pytest.raises(InputError) as caught:
        prepare("amazon", [path], tmp_path / "out")
    assert (caught.value.file, caught.value.row, caught.value.column) == (path, 3, column)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{'asin': 'B1'}", "is not JSON"),
        ({"asin": "B3", "category": 5}, "not a list"),
        ({"title": "no id"}, "item without an id"),
    ],
)
def test_a_bad_line_of_metadata_is_refused_with_its_number(tmp_path: Path, bad: Any, problem: str):
    lines(tmp_path / "Beauty.json.gz", [old("A1", "B1", 5)])
    path = lines(tmp_path / "meta_Beauty.json.gz", [*META_2018[:2], bad])
    with pytest.raises(InputError, match=problem) as caught:
        read([tmp_path], SourceOptions())
    assert (caught.value.file, caught.value.row) == (path, 3)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    beauty = lines(tmp_path / "Beauty.json.gz", [old("A1", "B1", 5)])
    with pytest.raises(InputError, match="two releases"):
        read([beauty, lines(tmp_path / "Books.jsonl", [new("A1", "B1", 5)])], SourceOptions())
    with pytest.raises(InputError, match="two files for one domain"):
        read([beauty, lines(tmp_path / "Beauty_5.json", [old("A1", "B1", 5)])], SourceOptions())
    with pytest.raises(InputError, match="metadata of a domain without reviews"):
        read([beauty, lines(tmp_path / "meta_Toys.json", META_2018)], SourceOptions())
    with pytest.raises(InputError, match="not reviews of a known release"):
        read([lines(tmp_path / "Toys.json", [{"user": "x"}])], SourceOptions())
    with pytest.raises(InputError, match="missing column"):
        read([lines(tmp_path / "Games.json", [{"reviewerID": "x", "asin": "y", "overall": 3}])], SourceOptions())
    with pytest.raises(InputError, match="not a file of Amazon Reviews"):
        read([lines(tmp_path / "Games.csv", ["x"])], SourceOptions())


def test_missing_empty_and_broken_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no file of reviews"):
        read([tmp_path], SourceOptions())
    with pytest.raises(InputError, match="no such file"):
        read([tmp_path / "Beauty.json.gz"], SourceOptions())
    path = lines(tmp_path / "Beauty.json.gz", [old("A1", f"B{item}", item) for item in range(300)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        read([path], SourceOptions())
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read([path], SourceOptions())
    with pytest.raises(InputError, match="--time-unit"):
        read([path], SourceOptions(time_unit="s"))
