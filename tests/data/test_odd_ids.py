"""Ids that a parser may take for others: keys that stand twice, halves of characters, zeros, whole numbers, blanks."""

import json
from pathlib import Path

import polars as pl
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.sources import blocks
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.reading import read_json
from mdrec_jax.errors import InputError
from mdrec_jax.serve.given_files import read_item_list, read_names
from mdrec_jax.serve.users import read_histories, read_users

NONE = {"min_user": 1, "min_item": 1, "split": "loo"}
FORMATS = ["csv", "tsv", "jsonl", "parquet"]
TWICE = [
    '{"user": "a", "user": "b", "item": "x"}',
    '{"user": "a", "item": "x", "user" : "a"}',
    '{"item": "x", "us\\u0065r": "a", "user": "b"}',
    '{"\\u0075\\u0073\\u0065\\u0072": "a", "item": "x", "user": "b"}',
    '{"item": 1, "user": "a", "item": null}',
]
HALVES = [
    r'{"user": "\ud800", "item": "x"}',
    r'{"user": "a\uDBFFb", "item": "x"}',
    r'{"user": "a", "item": "\udc00\ud800"}',
    r'{"user": "a", "item": "\ud83d\ude00\ude00"}',
]
SOUND = [
    r'{"user": "\ud83d\ude00", "item": "x"}',
    r'{"user": "\\ud83d", "item": "\\\ud83d\ude00"}',
    r'{"user": "a", "item": "x", "note": "\ud83d", "text": 1, "text": 2}',
    '{"user": "\\"user\\": ", "item": "user", "inner": {"user": 1, "item": 2}}',
    '{"us\\u0065r": "a", "item": "x"}',
]


def lines_of(number: int) -> list[str]:
    return [json.dumps({"user": f"u{row % 4}", "item": f"i{row % 7}"}) for row in range(number)]


def read(tmp_path: Path, lines: list[str], **options) -> Dataset:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare("jsonl", [path], tmp_path / "out", PrepareOptions(source=SourceOptions(**options), **NONE))


@pytest.mark.parametrize("block", [100, 1 << 22])
@pytest.mark.parametrize("line", TWICE + HALVES)
def test_a_key_twice_and_half_a_character_are_refused_at_their_row(tmp_path, monkeypatch, line, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    problem = "stands twice" if line in TWICE else "half of a character"
    with pytest.raises(InputError, match=problem) as caught:
        read(tmp_path, [*lines_of(20), line, *lines_of(20)])
    assert caught.value.row == 21
    str(caught.value).encode()
    dataset = read(tmp_path, [*lines_of(20), line, *lines_of(20)], skip_bad_rows=True)
    assert dataset.manifest.counts.events == 40
    assert sum(dataset.manifest.counts.dropped.values()) == 1


@pytest.mark.parametrize("line", SOUND)
def test_what_only_looks_like_it_is_read(tmp_path, line):
    user = json.loads(line)["user"]
    dataset = read(tmp_path, [*lines_of(20), line.replace('"item": ', '"time": 5, "item": '), *lines_of(20)],
                   time_column="none")  # fmt: skip
    assert dataset.manifest.counts.events == 41
    assert user in dataset.users()["raw"].to_list()


def test_a_key_with_other_letters_is_known_however_it_is_written(tmp_path):
    lines = [json.dumps({"kundenr/ü😀": f"u{row % 3}", "item": row % 5}) for row in range(30)]
    read(tmp_path, lines, user_column="kundenr/ü😀")
    lines[17] = lines[17].replace("}", r', "kundenr\/ü\uD83D\ude00": "v"}')
    with pytest.raises(InputError, match=r"row 18.*stands twice"):
        read(tmp_path, lines, user_column="kundenr/ü😀")


def test_sound_lines_are_not_taken_apart_one_by_one(tmp_path, monkeypatch):
    from mdrec_jax.data.sources import formats, jsonlines

    taken = []
    whole = jsonlines.json_object
    for module in (jsonlines, formats):
        monkeypatch.setattr(module, "json_object", lambda line, *place: taken.append(line) or whole(line, *place))
    lines = [
        json.dumps({"user": f"ü{row % 9}", "item": row % 7, "text": 'a "user": \\ 😀', "rating": None})
        for row in range(2000)
    ]
    read(tmp_path, lines)
    assert len(taken) <= formats.KEY_LINES * 3


def write(frame: pl.DataFrame, path: Path) -> Path:
    kind = path.suffix
    if kind == ".parquet":
        frame.write_parquet(path)
    elif kind == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if kind == ".tsv" else ",")
    return path


ODD = ["a", "a\0", "\0a", "a\x1f", " a", "a ", "A", "a\u00a0", "\u00e4", "a\u0308", "a\u200b"]


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_that_look_alike_are_kept_apart(tmp_path, kind):
    rows = [(user, item) for user in ODD for item in ODD]
    log = write(pl.DataFrame(rows, schema=["user", "item"], orient="row"), tmp_path / f"log.{kind}")
    dataset = prepare(kind, [log], tmp_path / "out", PrepareOptions(**NONE))
    assert sorted(dataset.users()["raw"]) == sorted(ODD)
    assert sorted(dataset.items(0)["raw"]) == sorted(ODD)
    asked = write(pl.DataFrame({"user": ODD, "item": ODD}), tmp_path / f"asked.{kind}")
    histories = read_histories(asked, dataset)
    assert histories.names == ODD
    assert len(set(histories.histories.item.tolist())) == len(ODD)
    assert read_users(asked, dataset).counts["unknown users"] == 0
    items = read_item_list(asked, dataset)
    assert (items.items, items.users) == (ODD, ODD)
    text = tmp_path / "list.txt"
    text.write_text("\n".join(ODD), encoding="utf-8")
    assert read_names(text, "user", dataset) == ODD
    ids, unknown = read_item_list(text, dataset).ids(dataset, 0)
    assert unknown == 0
    assert len(set(ids.tolist())) == len(ODD)


def test_whole_numbers_are_one_id_in_lists_items_and_domains_too(tmp_path):
    rows = [(row % 5, row % 7, 1 + row % 2) for row in range(140)]
    log = write(pl.DataFrame(rows, schema=["user", "item", "domain"], orient="row"), tmp_path / "log.csv")
    items = tmp_path / "items.csv"
    items.write_text("item,domain,title\n3.0,1.0,three\n4,2,four\n")
    dataset = prepare("csv", [log], tmp_path / "out", PrepareOptions(
        source=SourceOptions(domain_column="domain", items_file=items), **NONE))  # fmt: skip
    for domain, raw, title in ((0, "3", "three"), (1, "4", "four")):
        assert dataset.items(domain).filter(pl.col("raw") == raw)["title"].to_list() == [title]
    text = tmp_path / "list.txt"
    text.write_text("3.0\n4\n")
    assert read_names(text, "item", dataset) == ["3", "4"]


def test_the_items_of_recbole_and_amazon_have_the_ids_of_the_events(tmp_path):
    (tmp_path / "r").mkdir()
    events = "".join(f"{row % 4}\t{row % 5}.0\n" for row in range(40))
    (tmp_path / "r/x.inter").write_text("user_id:token\titem_id:token\n" + events)
    (tmp_path / "r/x.item").write_text("item_id:token\ttitle:token\n3.0\tthree\n")
    dataset = prepare("recbole", [tmp_path / "r"], tmp_path / "out", PrepareOptions(split="loo"))
    assert dataset.items(0).filter(pl.col("raw") == "3")["title"].to_list() == ["three"]
    (tmp_path / "a").mkdir()
    reviews = [
        {"reviewerID": row % 4, "asin": float(row % 5), "unixReviewTime": 1_400_000_000 + row, "overall": 5}
        for row in range(40)
    ]
    (tmp_path / "a/B.json").write_text("\n".join(map(json.dumps, reviews)))
    (tmp_path / "a/meta_B.json").write_text('{"asin": 3.0, "title": "three"}')
    dataset = prepare(
        "amazon", [tmp_path / "a"], tmp_path / "out2", PrepareOptions(split="loo", min_user=1, min_item=1)
    )
    assert dataset.items(0).filter(pl.col("raw") == "3")["title"].to_list() == ["three"]


def test_a_row_of_a_list_that_names_nobody_is_refused(tmp_path):
    dataset = read(tmp_path, lines_of(40))
    path = tmp_path / "users.csv"
    path.write_text("user,note\nu1,x\n,y\nu2,z\n")
    with pytest.raises(InputError, match=r"row 3.*missing user"):
        read_names(path, "user", dataset)


def test_a_folder_that_names_a_column_twice_is_refused(tmp_path):
    folder = tmp_path / "log/domain=a/domain=b"
    folder.mkdir(parents=True)
    (folder / "part.csv").write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match=r"column 'domain'.*twice in the path"):
        prepare("csv", [tmp_path / "log"], tmp_path / "out", PrepareOptions(**NONE))


@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"a": 1, "b": {"x": 1, "x": 2}}', "the key 'x' stands twice"), (r'{"a": ["\ud800"]}', "half of a character")],
)
def test_a_document_of_json_is_held_to_the_same(tmp_path, text, problem):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_json(path)
    path.write_text(r'{"a": "\ud83d\ude00", "b": {"a": 1}}')
    assert read_json(path) == {"a": "😀", "b": {"a": 1}}
