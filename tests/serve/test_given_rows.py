"""What is read from the files that a user gives: events, users, lists of items; and which row is wrong. No model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.errors import InputError
from mdrec_jax.serve.given_files import ItemList, read_columns, read_item_list, read_names
from mdrec_jax.serve.users import after_known, known_histories, known_items, read_histories, read_users
from tests.data.make import DAY, make_dataset

ROWS = [
    ("a", "1", "x", 0, "click"), ("a", "2", "x", 1, "buy"), ("a", "9", "y", 2, "click"), ("a", "1", "x", 3, "click"),
    ("b", "2", "x", 1, "click"), ("b", "9", "y", 2, "buy"), ("b", "8", "y", 4, "click"),
    ("c", "3", "x", 5, "click"), ("c", "1", "x", 6, "click"),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [(*row[:3], row[3] * DAY, row[4]) for row in ROWS]
    return make_dataset(tmp_path_factory.mktemp("given") / "world", rows)


@pytest.fixture(scope="module")
def plain_world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One domain, one type of event."""
    return make_dataset(tmp_path_factory.mktemp("given") / "plain", [(user, item) for user, item, *_ in ROWS])


def ids(world: Dataset) -> dict[str, int]:
    named = [world.items(domain).select("raw", "id").iter_rows() for domain in range(world.num_domains)]
    return dict(pair for some in named for pair in some)


def file(folder: Path, *lines: str, name: str = "f.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def listed(lists: Csr) -> list[list[int]]:
    return [lists.values[a:b].tolist() for a, b in zip(lists.offsets, lists.offsets[1:], strict=False)]


HEAD = "user,item,domain,event,time"


def test_rows_become_histories_in_the_order_of_their_times(world: Dataset, tmp_path: Path) -> None:
    path = file(
        tmp_path,
        HEAD,
        "v,1,x,click,30",
        "u,2,x,buy,20",
        "v,9,y,buy,10",
        "w,,,,",
        "u,nothing,y,click,40",
        "v,1,x,click,30",
    )
    users = read_histories(path, world)
    number = ids(world)
    assert users.names == ["v", "u", "w"]
    assert users.counts == {"unknown items": 1}
    found = users.histories
    assert np.asarray(found.offsets).tolist() == [0, 3, 5, 5]
    assert np.asarray(found.item).tolist() == [number["9"], number["1"], number["1"], number["2"], UNKNOWN_ITEM]
    assert np.asarray(found.domain).tolist() == [1, 0, 0, 0, 1]
    kinds = world.manifest.event_types
    assert [kinds[code] for code in np.asarray(found.event)] == ["buy", "click", "click", "buy", "click"]
    assert np.asarray(found.time).tolist() == [10, 30, 30, 20, 40]
    assert users.history.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert listed(known_items(found)) == [sorted({number["9"], number["1"]}), [number["2"]], []]


def test_a_data_set_of_one_domain_and_type_needs_neither_column(plain_world: Dataset, tmp_path: Path) -> None:
    users = read_histories(file(tmp_path, "user,item", "v,1", "v,2", "u,1"), plain_world)
    number = ids(plain_world)
    assert np.asarray(users.histories.item).tolist() == [number["1"], number["2"], number["1"]]
    assert users.histories.time is None
    assert not np.asarray(users.histories.domain).any()
    assert not np.asarray(users.histories.event).any()
    assert users.history.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("line", "column", "found", "expected"),
    [
        (",1,x,click,3", "user", "nothing", "a user's id"),
        ("v,1,z,click,3", "domain", "z", "one of x, y"),
        ("v,1,,click,3", "domain", "nothing", "one of x, y"),
        ("v,1,x,look,3", "event", "look", "one of "),
        ("v,1,x,click,", "time", "nothing", "a time"),
        ("v,1,x,click,-1", "time", "-1", None),
    ],
)
def test_the_first_row_that_cannot_be_used_is_named_or_all_are_counted(
    line: str, column: str, found: str, expected: str | None, world: Dataset, tmp_path: Path
) -> None:
    path = file(tmp_path, HEAD, "u,1,x,click,2", line, line, "w,2,x,buy,4")
    with pytest.raises(InputError) as error:
        read_histories(path, world)
    assert (error.value.file, error.value.row, error.value.column) == (path, 3, column)
    assert str(error.value.found) == found
    assert expected is None or str(error.value.expected).startswith(expected)
    users = read_histories(path, world, skip_bad_rows=True)
    assert users.names == ["u", "w"]
    assert [number for reason, number in users.counts.items() if column in reason] == [2]
    assert len(users.histories.item) == 2


def test_a_row_without_an_item_is_a_user_whatever_else_it_holds_and_an_event_may_be_of_second_0(
    world: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "f.parquet"
    rows = {"user": ["v", "u"], "item": ["", "1"], "domain": ["?", "x"], "event": ["?", "buy"], "time": [-5, 0]}
    pl.DataFrame(rows).write_parquet(path)
    users = read_histories(path, world)
    assert (users.names, np.asarray(users.histories.offsets).tolist()) == (["v", "u"], [0, 0, 1])
    assert np.asarray(users.histories.time).tolist() == [0]


def test_a_time_in_another_unit_is_named_with_its_row(world: Dataset, tmp_path: Path) -> None:
    now = 1_700_000_000
    times = [now, now + 1, (now + 2) * 1000, now + 3, (now + 4) * 1000, now + 5]
    path = file(tmp_path, HEAD, *(f"u,1,x,click,{time}" for time in times))
    with pytest.raises(InputError) as error:
        read_histories(path, world)
    assert (error.value.file, error.value.row, error.value.column) == (path, 4, "time")
    assert str(error.value.found).startswith(str(times[2]))


def test_a_file_in_which_nothing_can_be_used_names_nobody(world: Dataset, tmp_path: Path) -> None:
    for lines in ((HEAD,), (HEAD, ",1,x,click,3")):
        with pytest.raises(InputError, match="names no user") as error:
            read_histories(file(tmp_path, *lines), world, skip_bad_rows=True)
        assert (error.value.found, error.value.expected) == ("0 rows", "at least one")


def test_no_event_may_be_later_than_it_is_said(world: Dataset, tmp_path: Path) -> None:
    path = file(tmp_path, HEAD, "u,1,x,click,100", "u,2,x,click,101")
    assert len(read_histories(path, world, latest=101).histories.item) == 2
    with pytest.raises(InputError, match="a time that no event can have") as error:
        read_histories(path, world, latest=100)
    assert (error.value.row, error.value.column) == (3, "time")
    assert error.value.found == "101 (1970-01-01T00:01:41)"
    assert str(error.value.expected).endswith("and 1970-01-01T00:01:40")
    users = read_histories(path, world, latest=100, skip_bad_rows=True)
    assert len(users.histories.item) == 1
    ends = int(world.manifest.time_origin) + np.iinfo(np.int32).max
    at_the_end = file(tmp_path, HEAD, f"u,1,x,click,{ends}")
    assert len(read_histories(at_the_end, world).histories.item) == 1
    beyond = file(tmp_path, HEAD, f"u,1,x,click,{ends + 1}")
    for latest in (None, ends + 5):
        with pytest.raises(InputError, match="a time that no event can have"):
            read_histories(beyond, world, latest=latest)


def test_columns_are_called_as_the_caller_says_or_as_is_usual(world: Dataset) -> None:
    path, needed = Path("f.csv"), {"user": True, "item": True, "time": False}
    assert read_columns(["user", "item"], needed, path, world, {}) == {"user": "user", "item": "item"}
    assert read_columns(["who", "item", "user"], needed, path, world, {"user": "who"})["user"] == "who"
    with pytest.raises(InputError) as error:
        read_columns(["user"], needed, path, world, {})
    assert error.value.column == "item"
    with pytest.raises(InputError, match="one column for two things") as error:
        read_columns(["user", "item"], needed, path, world, {"user": "item"})
    assert (error.value.row, error.value.column, error.value.found) == (1, "item", "user and item")


def test_names_come_one_a_line_or_from_a_column(world: Dataset, tmp_path: Path) -> None:
    assert read_names(file(tmp_path, "a", "b", "a", name="L.TXT"), "user", world) == ["a", "b", "a"]
    path = file(tmp_path, "user,more", "a,1", "b,2")
    assert read_names(path, "user", world) == ["a", "b"]
    assert read_names(path, "user", world, {"user": "more"}) == ["1", "2"]
    path = file(tmp_path, "user,more", "a,1", ",2")
    with pytest.raises(InputError, match="missing user") as error:
        read_names(path, "user", world)
    assert (error.value.file, error.value.row, error.value.found) == (path, 3, "nothing")
    assert error.value.expected == "a user's id"


def test_a_row_with_only_one_of_user_and_item_is_refused(world: Dataset, tmp_path: Path) -> None:
    pairs = read_item_list(file(tmp_path, "user,item", "a,1", "b,2", "a,1", "a,2"), world)
    assert (pairs.users, pairs.items) == (["a", "b", "a"], ["1", "2", "2"])
    alone = read_item_list(file(tmp_path, "item", "2", "1", "2"), world)
    assert (alone.users, alone.items) == (None, ["2", "1"])
    for line, column in ((",2", "user"), ("b,", "item")):
        with pytest.raises(InputError, match=f"missing {column}") as error:
            read_item_list(file(tmp_path, "user,item", "a,1", line), world)
        assert (error.value.row, error.value.column) == (3, column)


def test_lists_of_items_are_for_everybody_or_for_each(world: Dataset, tmp_path: Path) -> None:
    number = ids(world)
    everybody = read_item_list(file(tmp_path, "2", "1", "2", "lost", name="l.txt"), world)
    assert (everybody.items, everybody.users) == (["2", "1", "lost"], None)
    found, unknown = everybody.ids(world, 0)
    assert (found.tolist(), unknown) == ([number["2"], number["1"], UNKNOWN_ITEM], 1)
    assert ItemList(["9", "lost", "lost"], None).ids(world, 1)[0].tolist() == [number["9"], UNKNOWN_ITEM, UNKNOWN_ITEM]
    assert ItemList(["9", "lost", "lost"], None).ids(world, 1)[1] == 1, "different ones"
    assert everybody.not_among(["a"]) == 0
    each = read_item_list(file(tmp_path, "user,item", "b,2", "z,1", "a,1", "b,1", "b,lost"), world)
    assert each.users == ["b", "z", "a", "b", "b"]
    found, unknown = each.ids(world, 0)
    assert listed(each.by_user(["a", "n", "b"], found)) == [[number["1"]], [], sorted([number["1"], number["2"]])]
    assert each.not_among(["a", "n"]) == 2


def test_users_of_the_data_set_are_read_with_all_they_did(world: Dataset, tmp_path: Path) -> None:
    number = ids(world)
    users = read_users(file(tmp_path, "c", "lost", "a", "c", name="u.txt"), world)
    assert users.names == ["c", "lost", "a"]
    assert users.counts == {"rows that name a user again": 1, "unknown users": 1}
    assert users.history[1].tolist() == [-1, -1]
    every = Csr(np.asarray(users.histories.offsets), np.asarray(users.histories.item))
    own = {user: [number[item] for who, item, *_ in ROWS if who == user] for user in "ac"}
    for person, user in ((0, "c"), (2, "a")):
        for domain in (0, 1):
            assert listed(every)[int(users.history[person, domain])] == own[user]
    one = int(users.history[2, 0])
    assert np.asarray(users.histories.time)[every.offsets[one] : every.offsets[one + 1]].tolist() == [
        0,
        DAY,
        2 * DAY,
        3 * DAY,
    ]


def test_of_several_sequences_the_last_with_the_domain_is_read_and_for_new_events_the_last(tmp_path: Path) -> None:
    rows = [("a", "1", "x"), ("a", "9", "y"), ("a", "2", "x"), ("a", "3", "x"), ("b", "1", "x"), ("b", "2", "x")]
    world = make_dataset(tmp_path / "world", rows, sequence=list("110022"), default_split="given", role=[0] * 5 + [2])
    number = ids(world)
    users = read_users(file(tmp_path, "a", "b", name="u.txt"), world)
    every = listed(Csr(np.asarray(users.histories.offsets), np.asarray(users.histories.item)))
    first, last = ([number[one] for one in some] for some in (("1", "9"), ("2", "3")))
    assert [every[place] for place in users.history[0]] == [last, first]
    other = [number["1"], number["2"]]
    assert [every[place] for place in users.history[1]] == [other, other], "who never was there: the last one"
    known = known_histories(world, ["b", None, "a", "lost"])
    assert listed(Csr(np.asarray(known.offsets), np.asarray(known.item))) == [other, [], last, []]
    assert known.time is not None


def test_new_events_follow_the_known_ones_in_time_and_count_once(world: Dataset, tmp_path: Path) -> None:
    number = ids(world)
    path = file(
        tmp_path,
        HEAD,
        f"c,1,x,click,{6 * DAY}",
        f"c,2,x,buy,{5 * DAY + 1}",
        "new,1,x,click,5",
        f"b,8,y,click,{9 * DAY}",
    )
    users = after_known(read_histories(path, world), world, path)
    every = listed(Csr(np.asarray(users.histories.offsets), np.asarray(users.histories.item)))
    assert every == [[number[i] for i in some] for some in (["3", "2", "1"], ["1"], ["2", "9", "8", "8"])]
    assert users.counts == {
        "unknown items": 0, "users whose events in the data set were read first": 2, "events already known": 1,
    }  # fmt: skip
    bare = file(tmp_path, "user,item,domain,event", "c,1,x,click")
    with pytest.raises(InputError, match="cannot follow events with times") as error:
        after_known(read_histories(bare, world), world, bare)
    assert (error.value.file, error.value.column, error.value.expected) == (bare, "time", "a column time")
    alone = file(tmp_path, "user,item,domain,event", "new,1,x,click")
    found: Any = after_known(read_histories(alone, world), world, alone).histories
    assert (found.time, found.item.tolist()) == (None, [number["1"]])
