"""Windows are cut as a loop over sequences and tokens would cut them."""

import itertools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.batching.streams import EventStream
from mdrec_jax.data.batching.windows import Windows, count_targets, cut_windows, domain_geometry

Cut = Literal["last", "all"]


def stream_of(lengths: list[int], gap: int = 0, seed: int = 0, read_only: float = 0.0) -> EventStream:
    """Sequences of these lengths, `gap` events of nobody between them; some events are never predicted."""
    rng = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(np.asarray(lengths) + gap)[:-1]]).astype(np.int64)
    number = sum(lengths) + gap * len(lengths)
    item = rng.integers(2, 50, number).astype(np.int32)
    target = np.where(rng.random(number) < read_only, 0, item).astype(np.int32) if read_only else item
    return EventStream(
        item=item,
        target=target,
        domain=rng.integers(0, 3, number).astype(np.int16),
        event=np.zeros(number, np.int16),
        time=np.arange(number),
        start=start,
        length=np.asarray(lengths, np.int64),
        user=np.arange(len(lengths), dtype=np.int32),
        num_domains=3,
        num_events=1,
        has_time=False,
        time_origin=0,
    )


def rows(windows: Windows) -> list[tuple[int, int, int]]:
    columns = (windows.sequence, windows.start, windows.length)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def scored(window: tuple[int, int, int]) -> list[int]:
    """Places of the events that a window predicts."""
    _, start, length = window
    return list(range(start + 1, start + length + 1))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # Nine events are eight tokens; the second sequence starts at place 9.
        ("last", [(0, 5, 3), (1, 9, 2)]),
        ("all", [(0, 0, 3), (0, 3, 3), (0, 6, 2), (1, 9, 2)]),
    ],
)
def test_windows_of_three_tokens(window: Cut, expected: list[tuple[int, int, int]]) -> None:
    assert rows(cut_windows(stream_of([9, 3]), window=window, max_length=3)) == expected


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 25), min_size=1, max_size=6),
    longest=st.integers(1, 6),
    gap=st.integers(0, 2),
    read_only=st.sampled_from([0.0, 0.5]),
)
def test_every_target_is_scored_once(lengths: list[int], longest: int, gap: int, read_only: float) -> None:
    stream = stream_of(lengths, gap, read_only=read_only)
    windows = cut_windows(stream, window="all", max_length=longest)
    cut = rows(windows)
    wanted = [
        place
        for start, length in zip(stream.start.tolist(), lengths, strict=True)
        for place in range(start + 1, start + length)
        if stream.target[place]
    ]
    found = [place for window in cut for place in scored(window) if stream.target[place]]
    assert found == wanted
    for sequence, start, length in cut:
        assert 1 <= length <= longest
        assert start >= stream.start[sequence]
        assert start + length < stream.start[sequence] + stream.length[sequence]
    counts = [[place for place in scored(window) if stream.target[place]] for window in cut]
    assert count_targets(stream, windows).tolist() == [len(places) for places in counts]
    assert min(map(len, counts), default=1) > 0, "a window without a target is left out"


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 25), min_size=1, max_size=6), longest=st.integers(1, 30), gap=st.integers(0, 2))
def test_the_last_window_ends_with_the_sequence(lengths: list[int], longest: int, gap: int) -> None:
    stream = stream_of(lengths, gap)
    for (sequence, start, length), whole in zip(
        rows(cut_windows(stream, window="last", max_length=longest)), lengths, strict=True
    ):
        assert length == min(whole - 1, longest)
        assert start + length == stream.start[sequence] + whole - 1


@pytest.mark.parametrize("window", ["last", "all"])
def test_ranks_and_gaps_within_a_domain_are_those_of_a_loop(window: Cut) -> None:
    stream = stream_of([25, 7, 2], gap=1, seed=3)
    windows = cut_windows(stream, window=window, max_length=6)
    geometry = domain_geometry(stream, windows)
    assert geometry is not None
    facts = geometry.facts.view(np.uint16).reshape(-1, 4)
    for start, length in zip(stream.start, stream.length, strict=True):
        for place in range(start, start + length):
            same = [p for p in range(start, place) if stream.domain[p] == stream.domain[place]]
            assert facts[place].tolist() == [
                stream.domain[place], 0, len(same), place - same[-1] if same else 0xFFFF,
            ]  # fmt: skip
    for number, (sequence, start, length) in enumerate(rows(windows)):
        for offset, domain in itertools.product(range(length), range(3)):
            place = start + offset
            if stream.domain[place] == domain:
                inside = sum(stream.domain[start:place] == domain)
                skipped = geometry.skipped[geometry.skipped_row[number], domain]
                assert facts[place, 2] - skipped == inside, sequence
