"""What preparing a log must keep true: order, filters, numbering, splits, determinism."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data import ids
from mdrec_jax.data.manifest import Parent
from mdrec_jax.data.prepare.filters import k_core
from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare, write_log
from mdrec_jax.errors import InputError
from tests.data.make import DAY, make_dataset, make_log, numbered

TRAIN, VALIDATION, TEST, CONTEXT = range(4)
PINNED = [
    14087677454934409008,
    18227743543257654235,
    14697271373051618264,
    3947884013457067194,
    15414999634790249941,
]
"""Hashes under seed 0; datasets made by any version must number their items alike."""


def by_user(dataset) -> dict[str, list[tuple[str, str, str, int]]]:
    """User -> (item, domain, event, role) as raw names."""
    raw = {}
    for name in dataset.manifest.domains:
        table = dataset.items(name)
        raw |= dict(zip(table["id"], table["raw"], strict=True))
    users = dataset.users()["raw"]
    result: dict[str, list] = {}
    for sequence, user in enumerate(dataset.sequence_user):
        for place in range(*dataset.sequence_offsets[sequence : sequence + 2]):
            result.setdefault(users[int(user)], []).append(
                (
                    raw.get(int(dataset.item[place]), "unknown"),
                    dataset.manifest.domains[dataset.domain[place]],
                    dataset.manifest.event_types[dataset.event[place]],
                    int(dataset.role[place]),
                )
            )
    return result


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }


def test_events_of_a_user_are_ordered_by_time_and_the_last_two_are_held_out(tmp_path):
    dataset = make_dataset(
        tmp_path / "d", [("u", item, "one", time) for item, time in zip("cabd", (3, 1, 2, 4), strict=True)]
    )
    assert [(item, role) for item, _, _, role in by_user(dataset)["u"]] == [
        ("a", TRAIN),
        ("b", TRAIN),
        ("c", VALIDATION),
        ("d", TEST),
    ]
    assert dataset.time.tolist() == [1, 2, 3, 4]
    assert dataset.manifest.time_origin == 1


def test_loo_holds_out_in_every_domain_and_loo_mixed_in_the_whole_sequence(tmp_path):
    rows = [("u", f"{domain}{place}", domain, place) for place, domain in enumerate("aababbab")]
    rows += [("v", "a0", "a", 0), ("v", "a1", "a", 1), ("v", "b0", "b", 2), ("v", "b1", "b", 3)]
    roles = {
        split: {user: [event[3] for event in events] for user, events in by_user(dataset).items()}
        for split in ("loo", "loo-mixed")
        for dataset in [make_dataset(tmp_path / split, rows, PrepareOptions(split=split))]
    }
    assert roles["loo"] == {"u": [0, 0, 0, 1, 0, 1, 2, 2], "v": [0, 0, 0, 0]}
    assert roles["loo-mixed"] == {"u": [0, 0, 0, 0, 0, 0, 1, 2], "v": [0, 0, 1, 2]}


def test_split_by_time_uses_the_clock_and_reads_dates(tmp_path):
    rows = [("u", str(day), "one", day * DAY) for day in range(6)]
    for split in (f"time:{2 * DAY},{4 * DAY}", "time:1970-01-03,1970-01-05"):
        dataset = make_dataset(tmp_path / "d", rows, PrepareOptions(split=split))
        assert dataset.role.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.manifest.split == {"rule": "time", "validation_from": 2 * DAY, "test_from": 4 * DAY}


def test_given_roles_are_taken_as_they_are(tmp_path):
    dataset = make_dataset(
        tmp_path / "d", [("u", str(i), "one", i) for i in range(4)], role=[0, 0, 3, 2], default_split="given"
    )
    assert dataset.role.tolist() == [0, 0, 3, 2]


def test_other_event_types_are_context_and_only_targets_are_held_out(tmp_path):
    rows = [("u", f"i{place}", "one", place, "buy" if place in (1, 3, 4, 6) else "click") for place in range(8)]
    dataset = make_dataset(tmp_path / "d", rows, PrepareOptions(target_events=("buy",)))
    assert dataset.role.tolist() == [3, 0, 3, 0, 1, 3, 2, 3]
    with pytest.raises(InputError, match="unknown event type"):
        make_dataset(tmp_path / "d", rows, PrepareOptions(target_events=("order",)))


def test_items_outside_the_vocabulary_are_read_as_id_1_and_never_predicted(tmp_path):
    rows = [("u", item, "one", place) for place, item in enumerate(("a", "b", "?", "c", "d", "?"))]
    dataset = make_dataset(tmp_path / "d", rows, unknown_item="?")
    assert dataset.item.tolist()[2] == dataset.item.tolist()[5] == ids.UNKNOWN_ITEM
    assert dataset.role.tolist() == [0, 0, 3, 1, 2, 3]
    assert dataset.manifest.counts.items == 4
    assert "?" not in dataset.items("one")["raw"]


def test_several_sequences_of_a_user_stay_apart(tmp_path):
    rows = [("u", str(place), "one", place) for place in range(8)]
    dataset = make_dataset(tmp_path / "d", rows, sequence=["s", "t"] * 4)
    assert dataset.num_sequences == 2
    assert dataset.num_users == 1
    assert np.diff(dataset.sequence_offsets).tolist() == [4, 4]
    with pytest.raises(InputError, match="two users"):
        make_dataset(tmp_path / "d", [*rows, ("v", "x", "one", 9)], sequence=["s", "t"] * 4 + ["s"])


def test_without_times_the_order_of_the_source_stands(tmp_path):
    rows = [("u", item) for item in "dbca"]
    dataset = make_dataset(tmp_path / "d", rows, has_time=False)
    assert [event[0] for event in by_user(dataset)["u"]] == list("dbca")
    assert dataset.time.tolist() == [0] * 4
    assert not dataset.manifest.has_time
    assert dataset.manifest.tie == "file"


@pytest.mark.parametrize("tie", ["seeded", "id"])
def test_shuffled_rows_give_identical_bytes(tmp_path, tie):
    rng = random.Random(1)
    rows = [
        (f"u{rng.randrange(40)}", f"i{rng.randrange(60)}", rng.choice("ab"), rng.randrange(9) * DAY, rng.choice("xy"))
        for _ in range(1500)
    ]
    options = PrepareOptions(tie=tie, min_user=5, min_item=5, duplicates="first", max_len=30)
    first = make_dataset(tmp_path / "1", rows, options, items_across="separate")
    for trial in ("2", "3"):
        rng.shuffle(rows)
        again = make_dataset(tmp_path / trial, rows, options, items_across="separate")
        assert files_of(tmp_path / trial) == files_of(tmp_path / "1")
        assert again.hash == first.hash


def test_tie_rules_order_a_day(tmp_path):
    rows = [("u", item, "one", 0) for item in ("10", "9", "8", "11", "7", "12")]

    def order(**options):
        return [event[0] for event in by_user(make_dataset(tmp_path / "d", rows, PrepareOptions(**options)))["u"]]

    assert order(tie="file") == ["10", "9", "8", "11", "7", "12"]
    assert order(tie="id") == ["7", "8", "9", "10", "11", "12"]
    assert order(tie="seeded") == order(tie="seeded", seed=0)
    assert len({tuple(order(tie="seeded", seed=seed)) for seed in range(5)}) > 1


def test_a_log_too_wide_for_one_sort_key_is_ordered_all_the_same(tmp_path, monkeypatch):
    rows = numbered(20, 9, 30, ("a", "b"))
    usual = make_dataset(tmp_path / "1", rows)
    monkeypatch.setattr("mdrec_jax.data.prepare.ordering.KEY_BITS", 8)
    make_dataset(tmp_path / "2", rows)
    assert files_of(tmp_path / "2") == files_of(tmp_path / "1")
    assert usual.num_sequences == 20


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=120),
    st.integers(1, 5),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_k_core_is_the_largest_log_that_keeps_both_counts(pairs, min_user, min_item):
    user = np.array([pair[0] for pair in pairs], np.int64)
    item = np.array([pair[1] for pair in pairs], np.int64)
    mask, dropped = k_core(user, item, min_user, min_item, np.zeros(0, np.int32))
    left = list(pairs)
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        fewer = [(u, i) for u, i in left if users[u] >= min_user and items[i] >= min_item]
        if fewer == left:
            break
        left = fewer
    assert sorted(zip(user[mask].tolist(), item[mask].tolist(), strict=True)) == sorted(left)
    assert sum(dropped.values()) == len(pairs) - len(left)


def test_everything_left_out_is_counted(tmp_path):
    rows = [("u", str(i), "one", i) for i in range(6)] + [("v", "0", "one", 7), ("u", "1", "one", 8)]
    dataset = make_dataset(
        tmp_path / "d",
        rows,
        PrepareOptions(min_rating=2, min_user=2, duplicates="first", max_len=4),
        rating=[1.0] + [5.0] * 7,
        dropped={"by the source": 3},
    )
    assert dataset.manifest.counts.dropped == {
        "by the source": 3,
        "rating": 1,
        "duplicates": 1,
        "min_user": 1,
        "max_len": 1,
    }
    assert [event[0] for event in by_user(dataset)["u"]] == ["2", "3", "4", "5"]


@pytest.mark.parametrize(("rule", "left"), [("keep", "abac"), ("first", "abc"), ("last", "bac")])
def test_duplicates(tmp_path, rule, left):
    rows = [("u", item, "one", place) for place, item in enumerate("abac")]
    dataset = make_dataset(tmp_path / "d", rows, PrepareOptions(duplicates=rule))
    assert "".join(event[0] for event in by_user(dataset)["u"]) == left


def test_equal_items_of_two_domains_are_one_or_two(tmp_path):
    rows = [("u", str(i % 4), "ab"[i // 4], i) for i in range(8)]
    shared = make_dataset(tmp_path / "1", rows, PrepareOptions(items_across="shared"))
    separate = make_dataset(tmp_path / "2", rows, PrepareOptions(items_across="separate"))
    assert (shared.num_items, separate.num_items) == (4 + ids.FIRST_ITEM, 8 + ids.FIRST_ITEM)
    assert shared.domain_items[0].tolist() == shared.domain_items[1].tolist()
    assert not set(separate.domain_items[0]) & set(separate.domain_items[1])
    a, b = separate.lookup_items(["2", "2"], ["a", "b"])
    assert a != b
    assert shared.lookup_items(["2", "9"], ["a", "b"]).tolist() == [shared.lookup_items(["2"], ["b"])[0], 1]


def test_ids_are_dense_and_carry_no_order(tmp_path):
    rows = [(f"u{user}", f"{user + place:04d}", "one", place) for user in range(600) for place in range(4)]
    dataset = make_dataset(tmp_path / "d", rows)
    table = dataset.items("one")
    assert table["id"].to_list() == list(range(ids.FIRST_ITEM, dataset.num_items))
    assert abs(np.corrcoef(table["id"], table["raw"].cast(pl.Int64))[0, 1]) < 0.15
    other = make_dataset(tmp_path / "e", rows, PrepareOptions(seed=1))
    assert other.items("one")["raw"].to_list() != table["raw"].to_list()


def test_the_hash_of_a_raw_id_never_changes():
    raw = pl.Series(["", "a", "B004756YJA", "日本", "x" * 300], dtype=pl.String)
    assert ids.hash_strings(raw, 0).tolist() == PINNED
    assert ids.hash_strings(raw, 1).tolist() != PINNED


def test_ids_are_those_of_the_model_side():
    from mdrec_jax import types

    assert (ids.PAD_ITEM, ids.UNKNOWN_ITEM, ids.FIRST_ITEM) == (types.PAD_ITEM, types.UNKNOWN_ITEM, types.FIRST_ITEM)


def test_metadata_features_and_candidates_follow_their_items(tmp_path):
    rows = [("u", item, "one", place) for place, item in enumerate("abcd")]
    items = {"one": pl.DataFrame({"item": list("azb"), "title": ["A", "Z", "B"], "category": [["x", "y"], [], None]})}
    features = {"image": (list("dza"), np.arange(6, dtype=np.float32).reshape(3, 2))}
    candidates = {
        "fixed": pl.DataFrame({"sequence": ["u", "w"], "domain": ["one", "one"], "negatives": [["b", "z", "a"], ["a"]]})
    }
    plain = make_dataset(tmp_path / "1", rows, items=items, features=features, candidates=candidates)
    assert plain.manifest.counts.items == 4
    assert plain.manifest.counts.dropped == {
        "item metadata without events": 1,
        "rows of feature 'image' without an item": 1,
        "rows of candidates 'fixed' without a sequence": 1,
        "items of candidates 'fixed' outside the catalogue": 1,
    }
    a, b, d = plain.lookup_items(["a", "b", "d"], ["one"] * 3)
    titles = dict(plain.items("one").select("id", "title").iter_rows())
    assert (titles[a], titles[b], titles[d]) == ("A", "B", None)
    rows_of, present = plain.feature("image")
    assert rows_of[d].tolist() == [0, 1]
    assert rows_of[a].tolist() == [4, 5]
    assert np.flatnonzero(present).tolist() == sorted([a, d])
    assert plain.candidates("fixed")["negatives"].to_list() == [[b, a]]
    kept = make_dataset(tmp_path / "2", rows, items=items, keep_items=True)
    assert kept.manifest.counts.items == 5
    assert len(kept.domain_items[0]) == 5


def test_extending_keeps_known_numbers_and_appends_new_ones(tmp_path):
    old = make_dataset(tmp_path / "old", numbered(20, 9, 30, ("b", "c")), items_across="separate")
    rows = numbered(30, 9, 40, ("a", "b", "c"))[90:]
    log = make_log(rows, items_across="separate")
    new = write_log(log, "rows", tmp_path / "new", PrepareOptions(), parent=old)
    assert new.manifest.parents == (Parent(old.hash, old.manifest.counts.items),)
    assert new.manifest.domains == ("b", "c", "a")
    assert new.users()["raw"].to_list()[:20] == old.users()["raw"].to_list()
    for name in old.manifest.domains:
        before, after = old.items(name).select("raw", "id"), new.items(name).select("raw", "id")
        assert before.join(after, on=["raw", "id"]).height == before.height
    everything = pl.concat([new.items(name).select("id") for name in new.manifest.domains])["id"].sort().to_list()
    assert everything == list(range(ids.FIRST_ITEM, new.num_items))
    assert new.num_items > old.num_items
    with pytest.raises(InputError, match="otherwise"):
        write_log(log, "rows", tmp_path / "new", PrepareOptions(items_across="shared"), parent=old)


def test_extending_with_nothing_new_changes_no_byte(tmp_path):
    rows = numbered(20, 9, 30, ("b", "c"))
    old = make_dataset(tmp_path / "old", rows)
    write_log(make_log(rows), "rows", tmp_path / "new", PrepareOptions(), parent=old)
    assert files_of(tmp_path / "new") == files_of(tmp_path / "old")


def test_preparing_and_inspecting_import_no_jax():
    code = (
        "import sys, mdrec_jax.data.prepare.prepare, mdrec_jax.data.summary, mdrec_jax.data.sources.table, "
        "mdrec_jax.cli.prepare, mdrec_jax.cli.inspect; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_s3rec_counts_are_those_published(tmp_path, shared_data):
    dataset = prepare("s3rec", [shared_data / "s3rec_beauty"], tmp_path / "beauty")
    counts = dataset.manifest.counts
    assert (counts.users, counts.items, counts.events) == (22_363, 12_101, 198_502)
    assert (counts.roles["validation"], counts.roles["test"]) == (22_363, 22_363)
    table = dataset.items("Beauty")
    assert table["attributes"].explode().n_unique() == 637
    assert round(table["attributes"].list.len().mean(), 2) == 3.72
    assert table["title"].null_count() == 0
