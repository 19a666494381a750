"""Roles against the rules, one sequence at a time, and what a split is called."""

import time
from collections import defaultdict
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.prepare.splits import (
    CONTEXT,
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    assign_roles,
    parse_split,
    refuse_empty,
)
from mdrec_jax.errors import InputError

EVENT = st.tuples(st.integers(0, 2), st.sampled_from([True, True, True, False]))
"""Domain, and whether it may be a target."""
TIMES = Split("time", 100, 200)


def leave_out(sequences: list[list[tuple[int, bool]]], by_domain: bool) -> list[int]:
    """The last target of each sequence (and domain) is for test, the one before for validation, if there is a third."""
    roles: list[int] = []
    for events in sequences:
        own = [TRAIN if target else CONTEXT for _, target in events]
        groups = defaultdict(list)
        for place, (domain, target) in enumerate(events):
            if target:
                groups[domain if by_domain else 0].append(place)
        for places in groups.values():
            if len(places) >= 3:
                own[places[-1]], own[places[-2]] = TEST, VALIDATION
        roles += own
    return roles


def roles_of(split: Split, sequences: list[list[tuple[int, bool]]], **given: np.ndarray) -> list[int]:
    events = [event for sequence in sequences for event in sequence]
    offsets = np.cumsum([0, *(len(sequence) for sequence in sequences)])
    domain, target = np.array([d for d, _ in events], np.int16), np.array([t for _, t in events], bool)
    return assign_roles(split, offsets, domain, target, given.get("time"), given.get("given")).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=12), max_size=6), st.booleans())
def test_leaving_one_out_holds_out_the_last_two_targets(sequences: list, by_domain: bool) -> None:
    # One sequence that surely has all parts: what an empty part does is tested below.
    sequences = [*sequences, [(1, True)] * 4]
    split = Split("loo" if by_domain else "loo-mixed")
    assert roles_of(split, sequences) == leave_out(sequences, by_domain)


def test_a_sequence_with_fewer_than_three_targets_trains_only() -> None:
    long, short = [(0, True)] * 3, [(0, True), (0, False), (0, True), (0, False)]
    assert roles_of(Split("loo"), [short, long, short]) == [0, 3, 0, 3, TRAIN, VALIDATION, TEST, 0, 3, 0, 3]


def test_neighbours_of_one_domain_are_not_taken_for_one_sequence() -> None:
    pair = [(0, True), (2, True)]
    assert roles_of(Split("loo"), [pair, pair, pair, [(2, True)] * 3])[:6] == [TRAIN] * 6


def test_a_split_by_time_takes_each_limit_into_the_later_part() -> None:
    times = np.array([99, 100, 199, 200, 99, 1000])
    sequences = [[(0, True)] * 4, [(1, True), (1, True)]]
    assert roles_of(TIMES, sequences, time=times) == [TRAIN, VALIDATION, VALIDATION, TEST, TRAIN, TEST]
    sequences[0][1] = sequences[1][1] = (0, False)
    assert roles_of(TIMES, sequences, time=times) == [TRAIN, CONTEXT, VALIDATION, TEST, TRAIN, CONTEXT]


def test_given_roles_are_taken_but_for_what_is_only_read() -> None:
    given = np.array([TEST, TRAIN, TRAIN, VALIDATION], np.int8)
    sequences = [[(0, True), (0, True), (0, False)], [(0, True)]]
    assert roles_of(Split("given"), sequences, given=given) == [TEST, TRAIN, CONTEXT, VALIDATION]


@pytest.mark.parametrize(("rule", "wants"), [("given", "gives no split"), ("time", "needs times")])
def test_a_rule_without_what_it_needs_is_refused(rule: str, wants: str) -> None:
    with pytest.raises(InputError, match=wants):
        roles_of(Split(rule, 100, 200), [[(0, True)] * 5])


@pytest.mark.parametrize("missing", [TRAIN, VALIDATION, TEST])
@pytest.mark.parametrize("rule", ["loo", "loo-mixed", "time", "given"])
def test_a_part_without_events_is_refused_by_name(rule: str, missing: int) -> None:
    role = np.array([part for part in (TRAIN, VALIDATION, TEST, CONTEXT) if part != missing], np.int8)
    if rule == "given" and missing == VALIDATION:
        refuse_empty(Split(rule), role)  # a source may have none
        return
    name = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}[missing]
    with pytest.raises(InputError, match=f"leaves no {name} events") as told:
        refuse_empty(Split(rule), role)
    assert f"0 {name} events of 3" in str(told.value)
    hints = {"loo": "three targets", "loo-mixed": "three targets", "time": "look at the split's times"}
    for hint in set(hints.values()):
        assert (hint in str(told.value)) == (hint == hints.get(rule))
    refuse_empty(Split(rule), np.array([*role, missing], np.int8))


def test_nothing_at_all_is_no_split() -> None:
    with pytest.raises(InputError, match="leaves no test events"):
        roles_of(Split("loo"), [[], []])


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("time:100,200", 100, 200),
        ("time:-5,0", -5, 0),
        ("time:2014-07-23,2014-07-24", seconds("2014-07-23T00:00:00+00:00"), seconds("2014-07-24T00:00:00+00:00")),
        ("time:2014-07-23T06:30:00+02:00, 2014-07-23T06:30:00", 1406089800, 1406097000),
        ("time:0,1970-01-02", 0, 86400),
    ],
)
def test_times_are_seconds_or_dates_of_utc_unless_they_say_otherwise(text: str, first: int, second: int) -> None:
    assert parse_split(text) == Split("time", first, second)
    zone = timezone(timedelta(hours=2))
    assert datetime(2014, 7, 23, 6, 30, tzinfo=zone).timestamp() == 1406089800


def test_a_date_does_not_depend_on_the_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patched:
            patched.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            assert parse_split("time:1970-01-02,1970-01-03") == Split("time", 86400, 2 * 86400)
    finally:
        time.tzset()


@pytest.mark.parametrize("name", ["loo", "loo-mixed", "given"])
def test_the_other_rules_are_names(name: str) -> None:
    assert parse_split(name) == Split(name)
    assert Split(name, 3, 4).to_json() == {"rule": name}


def test_a_split_by_time_is_written_with_its_times() -> None:
    assert TIMES.to_json() == {"rule": "time", "validation_from": 100, "test_from": 200}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unknown split"), ("LOO", "unknown split"), ("time:1", "unknown split"), ("time:1,2,3", "unknown split"),
        ("1,2", "unknown split"), ("time:2,1", "wrong order"), ("time:1,1", "wrong order"), ("time:a,1", "unparsable"),
        ("time:1,2014-13-01", "unparsable"),
    ],
)  # fmt: skip
def test_what_names_no_split_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as told:
        parse_split(text)
    assert "split" in str(told.value)
