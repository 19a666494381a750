"""Which events of a file are new to users of whom something was read, what is kept of them, and what is counted."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.transitions import STEPS
from mdrec_jax.serve.deduplicate import NO_TIME, event_digests
from mdrec_jax.serve.new_events import NewEvents, _last, find_new_events
from mdrec_jax.serve.recommendations import to_frame, told
from mdrec_jax.serve.state_file import UserStates
from mdrec_jax.serve.users import ALREADY_KNOWN, Users, known_histories
from tests.data.make import DAY, make_dataset

STARTED = "users who start with their events in the data set"
UNREAD = "users who start without their events in the data set (--from reads them)"
LATE = "late events left out"
FILE = Path("events.csv")
type Event = tuple[int, int]
"""Item and second, of one domain and type."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [("a", "1"), ("a", "2"), ("a", "3"), ("a", "1"), ("b", "2"), ("b", "3"), ("b", "1"), ("b", "2")]
    return make_dataset(tmp_path_factory.mktemp("news") / "world", rows)


def histories(some: Sequence[Sequence[Event]], *, timed: bool = True) -> Histories:
    events = np.asarray([event for one in some for event in one], np.int64).reshape(-1, 2)
    nothing = np.zeros(len(events), np.int64)
    offsets = from_lengths(np.array([len(one) for one in some], np.int64))
    return Histories(offsets, events[:, 0], nothing, nothing, events[:, 1] if timed else None)


def users(named: dict[str, list[Event]], *, timed: bool = True) -> Users:
    return Users(list(named), histories(list(named.values()), timed=timed), np.arange(len(named))[:, None], {})


def states(read: Sequence[Sequence[Event]], *, timed: bool = True) -> UserStates:
    """Of users p0, p1, ... who have had these events."""
    number = len(read)
    time = [one[-1][1] if one and timed else NO_TIME for one in read]
    seen = Csr(np.zeros(number + 1, np.int64), np.zeros(0, np.int32))
    state: Any = SimpleNamespace()
    return UserStates(
        [f"p{place}" for place in range(number)], state, np.array(time, np.int64), np.zeros((number, STEPS), np.int32),
        seen, event_digests(histories(read, timed=timed)),
    )  # fmt: skip


def find(
    world: Dataset,
    before: UserStates,
    file: Users,
    user: list[int],
    *,
    init_from_dataset: bool = False,
    late: Any = "skip",
) -> tuple[NewEvents, dict[str, int]]:
    return find_new_events(world, before, np.array(user), file, FILE, init_from_dataset=init_from_dataset, late=late)


def listed(found: Histories) -> list[list[int]]:
    return [np.asarray(found.item)[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]


def test_the_last_time_of_a_history_is_that_of_its_last_event() -> None:
    assert _last(histories([[], [(2, 5), (3, 9)], [], [(4, 1)], []])).tolist() == [NO_TIME, 9, NO_TIME, 1, NO_TIME]
    assert _last(histories([[(2, 5)]], timed=False)).tolist() == [NO_TIME]
    assert _last(histories([[], []])).tolist() == [NO_TIME] * 2
    assert _last(histories([[(2, 5)], [(3, 6)]])).tolist() == [5, 6]


def test_what_was_read_is_known_and_what_is_older_is_late(world: Dataset) -> None:
    before = states([[(2, 10), (3, 20)], [], [(4, 5)]])
    file = users({"x": [(4, 4), (4, 5), (2, 6)], "y": [(2, 10), (2, 15), (3, 20), (4, 20), (4, 30)], "z": [(2, 1)]})
    new, counts = find(world, before, file, [2, 0, 1])
    assert listed(new.histories) == [[2], [4, 4], [2]]
    assert new.last.tolist() == [6, 30, 1]
    assert counts == {UNREAD: 0, ALREADY_KNOWN: 3, LATE: 2}
    read = event_digests(histories([[(2, 6)], [(4, 20), (4, 30)], [(2, 1)]]))
    assert new.digests.values.tolist() == read.values.tolist()
    assert new.digests.offsets.tolist() == read.offsets.tolist()


def test_without_new_events_the_last_time_stays(world: Dataset) -> None:
    new, counts = find(world, states([[(2, 10), (3, 20)]]), users({"x": [(3, 20)]}), [0])
    assert (listed(new.histories), new.last.tolist(), counts[ALREADY_KNOWN]) == ([[]], [20], 1)


def test_late_events_are_refused_with_how_many_of_whom(world: Dataset) -> None:
    before = states([[(2, 10)], [(2, 10)], [(2, 10)]])
    file = users({"x": [(3, 11)], "y": [(3, 8), (3, 9), (3, 12)], "z": [(3, 1)]})
    with pytest.raises(InputError, match="older than what the state has read") as error:
        find(world, before, file, [0, 1, 2], late="refuse")
    assert (error.value.file, error.value.column) == (FILE, "time")
    assert error.value.found == "3 events of 2 of 3 users"
    assert "--late skip" in str(error.value.hint)
    assert find(world, before, file, [0, 1, 2])[1][LATE] == 3
    on_time = users({"x": [(3, 10)]})
    assert find(world, before, on_time, [0], late="refuse")[1][LATE] == 0


def test_events_without_times_cannot_follow_those_with_times(world: Dataset) -> None:
    before = states([[(2, 10)], [], [(3, 4)]])
    file = users({"x": [(3, 0)], "y": [(3, 0)], "z": []}, timed=False)
    with pytest.raises(InputError, match="cannot follow events with times") as error:
        find(world, before, file, [0, 1, 2])
    assert (error.value.file, error.value.column, error.value.expected) == (FILE, "time", "a column time")
    assert error.value.found == "events of 1 users whose earlier ones had times"
    bare = users({"y": [(3, 0)], "z": []}, timed=False)
    new, _ = find(world, before, bare, [1, 2])
    assert listed(new.histories) == [[3], []]
    assert new.last.tolist() == [NO_TIME, 4]


def test_who_has_read_nothing_starts_with_what_the_data_set_has(world: Dataset) -> None:
    known = known_histories(world, ["a"])
    mine = listed(known)[0]
    end = int(np.asarray(known.time)[-1])
    before = states([[], [(2, end + 5 * DAY)], []])
    file = users({"a": [(2, end + DAY)], "b": [(3, end + 6 * DAY)], "new": [(4, 1)]})
    new, counts = find(world, before, file, [0, 1, 2], init_from_dataset=True)
    assert listed(new.histories) == [[*mine, 2], [3], [4]]
    assert new.last.tolist() == [end + DAY, end + 6 * DAY, 1]
    assert counts == {STARTED: 1, ALREADY_KNOWN: 0, LATE: 0}
    assert len(new.digests.values) == len(mine) + 3
    assert new.digests.lengths.tolist() == [len(mine) + 1, 1, 1]
    assert new.digests.values[: len(mine)].tolist() == event_digests(known).values.tolist()
    repeated = users({"a": [(int(known.item[-1]), end)], "b": [], "new": []})
    new, counts = find(world, before, repeated, [0, 1, 2], init_from_dataset=True)
    assert (listed(new.histories)[0], counts[ALREADY_KNOWN]) == (mine, 1)
    assert new.last.tolist() == [end, end + 5 * DAY, NO_TIME]
    early = users({"a": [(4, end - 1)]})
    assert find(world, before, early, [0], init_from_dataset=True)[1][LATE] == 1


def test_without_from_who_is_in_the_data_set_starts_with_nothing_and_is_counted(world: Dataset) -> None:
    before = states([[], [(2, 7)]])
    file = users({"a": [(2, 1)], "b": [(3, 9)]})
    new, counts = find(world, before, file, [0, 1], late="refuse")
    assert listed(new.histories) == [[2], [3]]
    assert new.last.tolist() == [1, 9]
    assert counts == {UNREAD: 1, ALREADY_KNOWN: 0, LATE: 0}


def test_what_is_kept_beside_a_state_is_its_latest_items_all_seen_and_all_read() -> None:
    before = states([[(2, 1)], [(3, 2)], [(5, 3)]])
    recent = np.array([[9, 8, 7, 0, 0], [6, 0, 0, 0, 0], [1, 2, 3, 4, 5]], np.int32)
    seen = Csr(np.array([0, 2, 3, 4]), np.array([2, 7, 3, 5], np.int32))
    before = UserStates(before.names, before.state, before.time, recent, seen, before.read)
    new = histories([[(n, n) for n in (11, 12, 13, 14, 15, 16)], [(2, 4), (UNKNOWN_ITEM, 5)]])
    events = NewEvents(new, event_digests(new), np.array([16, 5]))
    after = events.applied(before, np.array([2, 0]))
    assert after.recent.tolist() == [[UNKNOWN_ITEM, 2, 9, 8, 7], [6, 0, 0, 0, 0], [16, 15, 14, 13, 12]]
    assert after.time.tolist() == [5, 2, 16]
    lists = [after.seen.values[a:b].tolist() for a, b in zip(after.seen.offsets, after.seen.offsets[1:], strict=False)]
    assert lists == [[2, 7], [3], [5, 11, 12, 13, 14, 15, 16]]
    assert after.read.lengths.tolist() == [3, 1, 7]
    assert after.read.values[:3].tolist() == [before.read.values[0], *event_digests(new).values[6:]]
    assert (after.names, after.state) == (before.names, before.state)
    assert (before.recent[0].tolist(), before.time.tolist()) == ([9, 8, 7, 0, 0], [1, 2, 3]), "the old ones stay"


def test_what_is_worth_knowing_of_lists_is_counted() -> None:
    item = np.array([[3, 4, 5], [3, 0, 0], [3, 4, 0], [0, 0, 0]])
    lists: Any = SimpleNamespace(item=item, fallback=["", "why", "why", "nothing that may be recommended"], seen=7)
    assert told(lists, "books", 3) == {
        "popularity lists in books: why": 2,
        "no list in books: nothing that may be recommended": 1,
        "lists shorter than 3 in books": 2,
        "items of books left out as seen": 7,
    }


def test_recommendations_are_rows_of_what_the_source_calls_them(world: Dataset) -> None:
    ids = dict(world.items(0).select("raw", "id").iter_rows())
    item = np.array([[ids["2"], ids["1"]], [ids["3"], 0], [0, 0]], np.int32)
    lists: Any = SimpleNamespace(
        item=item, score=np.array([[2.5, 1], [3, 0], [0, 0]], np.float32), fallback=["", "w", "n"]
    )
    frame = to_frame(world, users({"u": [], "v": [], "w": []}), 0, lists)
    assert frame.columns == ["user", "domain", "rank", "item", "title", "score", "fallback"]
    assert frame.drop("title").rows() == [
        ("u", "one", 1, "2", 2.5, None), ("u", "one", 2, "1", 1.0, None), ("v", "one", 1, "3", 3.0, "w"),
    ]  # fmt: skip
    nobody: Any = SimpleNamespace(item=item[2:], score=np.zeros((1, 2)), fallback=[""])
    assert to_frame(world, users({"u": []}), 0, nobody).height == 0
