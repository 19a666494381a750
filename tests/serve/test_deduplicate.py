"""Which events are new to users of whom something was read, against loops over them."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.csr import Csr
from mdrec_jax.serve.deduplicate import NO_TIME, event_digests, find_overlap, following, in_time, without

type Event = tuple[int, int, int, int]
"""Item, domain, behaviour type, second."""
DIGESTS = [-1_123_849_738_884_038_150, 8_483_026_581_397_776_981, 294_098_834_537_967_059]
"""Of three events: files of states that were written earlier hold them."""


def histories(users: list[list[Event]], *, timed: bool = True) -> Histories:
    events = [event for one in users for event in one]
    item, domain, event, time = np.asarray(events, np.int64).reshape(-1, 4).T
    offsets = np.append(0, np.cumsum([len(one) for one in users]))
    return Histories(offsets, item, domain, event, time if timed else None)


def random_users(seed: int) -> list[list[Event]]:
    """Few items, domains, types and seconds, so that many events are equal; the first and the last have none."""
    rng = np.random.default_rng(seed)
    lengths = [0, *rng.integers(0, 12, 8), 0]
    drawn = [np.stack([rng.integers(1, 4, n), *rng.integers(0, 2, (2, n)), rng.integers(0, 5, n)], 1) for n in lengths]
    return [sorted(map(tuple, some.tolist()), key=lambda event: event[3]) for some in drawn]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_events_as_many_are_known_as_were_read(seed: int) -> None:
    old, new = random_users(seed), random_users(seed + 100)
    last = np.asarray([person[-1][3] if person else NO_TIME for person in old])
    found = find_overlap(event_digests(histories(old)), last, histories(new))
    known, late = [], []
    for before, after, end in zip(old, new, last.tolist(), strict=True):
        left = Counter(before)
        for event in after:
            known.append(left[event] > 0)
            left[event] -= 1
            late.append(not known[-1] and event[3] < end)
    assert found.known.tolist() == known
    assert found.late.tolist() == late
    assert 0 < sum(known) < len(known)
    assert sum(late)


def test_nothing_is_late_to_somebody_of_whom_nothing_was_read() -> None:
    found = find_overlap(Csr(np.array([0, 0]), np.zeros(0, np.int64)), np.array([NO_TIME]), histories([[(3, 0, 0, 7)]]))
    assert (found.known.tolist(), found.late.tolist()) == ([False], [False])


def test_a_digest_tells_item_domain_type_and_second_apart() -> None:
    event = (5, 1, 1, 9)
    changed = [tuple(value + (place == column) for column, value in enumerate(event)) for place in range(4)]
    digests = event_digests(histories([[event, event, *changed]])).values  # pyright: ignore[reportArgumentType]
    assert digests[0] == digests[1]
    assert len(set(digests.tolist())) == 5
    plain = histories([[(5, 0, 0, 9)]])
    bare = replace(plain, domain=None, event=None)
    assert event_digests(bare).values == event_digests(plain).values
    assert event_digests(replace(plain, time=None)).values != event_digests(replace(plain, time=np.array([0]))).values


@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ([1, 2, 3], [2, 3, 4], 2),  # the last two are sent again
        ([1, 2, 3], [3, 2, 3], 1),
        ([2, 3, 2, 3], [2, 3, 2, 3, 3], 4),
        ([1, 2, 3], [1, 2], 0),  # the first ones happened again
        ([1, 2, 3], [1, 2, 3, 1, 2, 3], 3),
        ([3, 1], [2, 3, 1], 0),
        ([3], [3, 3], 1),
        ([], [1, 2], 0),
        ([1, 2], [], 0),
    ],
)
def test_without_times_the_first_events_that_were_the_last_are_known(
    old: list[int], new: list[int], known: int
) -> None:
    """Of a person between two others."""
    other = [(9, 0, 0, 0)]
    both = [[other, [(item, 0, 0, 0) for item in items], other] for items in (old, new)]
    before, after = (histories(one, timed=False) for one in both)
    found = find_overlap(event_digests(before), np.full(3, NO_TIME), after)
    assert found.known.tolist() == [True, *(place < known for place in range(len(new))), True]
    assert not found.late.any()


def listed(found: Histories) -> list[list[tuple[int, ...]]]:
    columns = [found.item, found.domain, found.event, found.time]
    rows = list(zip(*(np.zeros(len(found.item), int) if x is None else x for x in columns), strict=True))
    ends = pairwise(np.asarray(found.offsets).tolist())
    return [[tuple(map(int, row)) for row in rows[begin:end]] for begin, end in ends]


def test_histories_are_cut_joined_and_ordered_person_by_person() -> None:
    one, two = random_users(7), random_users(8)
    assert listed(following(histories(one), histories(two))) == [a + b for a, b in zip(one, two, strict=True)]
    keep = np.random.default_rng(0).random(sum(map(len, one))) < 0.5
    numbers = iter(keep.tolist())
    kept = [[event for event in person if next(numbers)] for person in one]
    assert listed(without(histories(one), ~keep)) == kept
    backwards = [person[::-1] for person in one]
    assert listed(in_time(histories(backwards))) == [sorted(person, key=lambda event: event[3]) for person in backwards]
    assert listed(in_time(histories(backwards, timed=False))) == [[(*e[:3], 0) for e in person] for person in backwards]


def test_times_stay_where_all_events_have_one() -> None:
    timed, bare = histories([[(3, 1, 0, 7)]]), histories([[(4, 0, 1, 0)]], timed=False)
    nothing = histories([[]], timed=False)
    assert following(timed, bare).time is None
    assert following(bare, timed).time is None
    assert following(timed, nothing).time == [7]
    assert following(nothing, timed).time == [7]
    assert without(bare, np.array([True])).time is None


def test_a_digest_is_the_one_that_files_of_states_hold() -> None:
    one = histories([[(5, 1, 2, 1_700_000_000), (70_000, 0, 0, 0)]])
    bare = Histories(np.array([0, 1]), np.array([5]), None, None, None)
    assert event_digests(one).values.tolist() == DIGESTS[:2]
    assert event_digests(bare).values.tolist() == DIGESTS[2:]


def test_of_an_event_that_was_read_once_the_second_and_third_are_new() -> None:
    event = (3, 0, 0, 7)
    found = find_overlap(event_digests(histories([[event]])), np.array([7]), histories([[event] * 4]))
    assert found.known.tolist() == [True, False, False, False]
    twice = find_overlap(event_digests(histories([[event] * 2])), np.array([7]), histories([[event] * 6]))
    assert twice.known.tolist() == [True, True, False, False, False, False]
    nothing = find_overlap(event_digests(histories([[]])), np.array([NO_TIME]), histories([[]]))
    assert (len(nothing.known), len(nothing.late)) == (0, 0)


def test_without_times_nothing_is_known_where_nothing_was_repeated() -> None:
    old, new = ([[(item, 0, 0, 0) for item in some] for some in people] for people in ([[1, 2], []], [[3, 4, 5], [6]]))
    before, after = (histories(people, timed=False) for people in (old, new))
    assert not find_overlap(event_digests(before), np.full(2, NO_TIME), after).known.any()


def test_a_history_without_domains_or_types_is_of_the_first_ones() -> None:
    bare = Histories(np.array([0, 1]), np.array([5]), None, None, np.array([9]))
    found = following(bare, histories([[(6, 1, 1, 10)]]))
    assert [x.tolist() for x in (found.item, found.domain, found.event, found.time)] == [
        [5, 6],
        [0, 1],
        [0, 1],
        [9, 10],
    ]  # pyright: ignore[reportOptionalMemberAccess]
