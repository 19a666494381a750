"""Data sets in memory with chosen roles, and the slow, obvious way of saying what a batch of them must hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.manifest import Counts, Manifest
from mdrec_jax.types import Batch

ORIGIN = 1_000_000
TRAIN, VALIDATION, TEST, CONTEXT = 0, 1, 2, 3


def dataset_of(
    roles: list[list[int]],
    *,
    domains: list[list[int]] | None = None,
    num_domains: int = 1,
    num_events: int = 1,
    has_time: bool = True,
    seed: int = 0,
) -> Dataset:
    """A data set from each sequence's roles. Every event has an item of its own, so an item names its event."""
    rng = np.random.default_rng(seed)
    lengths = [len(sequence) for sequence in roles]
    count = sum(lengths)
    manifest = Manifest(
        schema=1, source="test", created_by="test", sources=(), files={},
        domains=tuple(f"domain{index}" for index in range(num_domains)),
        event_types=tuple(f"type{index}" for index in range(num_events)),
        counts=Counts(len(roles), len(roles), count, count, {}, {}, {}),
        split={"rule": "given"}, filters={}, tie="file", seed=0, items_across="shared",
        has_time=has_time, ordered=True, time_origin=ORIGIN if has_time else 0, parents=(), hash="",
    )  # fmt: skip
    flat = [domain for sequence in domains for domain in sequence] if domains else rng.integers(num_domains, size=count)
    return Dataset(
        path=Path("in memory"),
        manifest=manifest,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence_user=rng.permutation(len(roles)).astype(np.int32),
        item=(2 + rng.permutation(count)).astype(np.int32),
        domain=np.asarray(flat, np.int16),
        event=rng.integers(num_events, size=count).astype(np.int16),
        time=ORIGIN + np.arange(count, dtype=np.int64) * 7 if has_time else np.zeros(count, np.int64),
        role=np.array([role for sequence in roles for role in sequence], np.int8),
        domain_items=tuple(np.arange(2, 2 + count, dtype=np.int32) for _ in range(num_domains)),
    )


@st.composite
def datasets(draw: st.DrawFn, roles: tuple[int, ...] = (TRAIN, TRAIN, TRAIN, VALIDATION, TEST, CONTEXT)) -> Dataset:
    """Any small data set in which something can be predicted."""
    sequences = draw(st.lists(st.lists(st.sampled_from(roles), max_size=14), max_size=8))
    return dataset_of(
        [[TRAIN, TRAIN], *sequences],
        num_domains=draw(st.integers(1, 3)),
        num_events=draw(st.integers(1, 2)),
        has_time=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def sequences_of(dataset: Dataset) -> Iterator[tuple[int, range]]:
    """(user, places of the events) of every sequence."""
    offsets = dataset.sequence_offsets.tolist()
    for user, begin, end in zip(dataset.sequence_user.tolist(), offsets, offsets[1:], strict=False):
        yield user, range(begin, end)


def token(dataset: Dataset, window: list[int], position: int) -> dict[str, int]:
    """What a token says of its own event: `window` is the places of the window's tokens."""
    place = window[position]
    origin = dataset.manifest.time_origin
    same = [other for other in window[:position] if dataset.domain[other] == dataset.domain[place]]
    return {
        "item": int(dataset.item[place]),
        "domain": int(dataset.domain[place]),
        "event": int(dataset.event[place]),
        "time": int(dataset.time[place]) - origin,
        "position": position,
        "domain_position": len(same),
        "target": 0,
        "target_domain": 0,
        "target_time": 0,
        "previous": -1,
        "weight": 0,
    }


def latest_in(dataset: Dataset, window: list[int], domain: int) -> int:
    """The position of the window's latest event of a domain; -1 where there is none."""
    return max((place for place, event in enumerate(window) if dataset.domain[event] == domain), default=-1)


def expected_training(dataset: Dataset, config: BatchingConfig) -> list[tuple[int, list[dict[str, int]]]]:
    """(user, tokens) of every segment of an epoch, one sequence and one token at a time."""
    segments = []
    for user, places in sequences_of(dataset):
        visible = [place for place in places if dataset.role[place] in (TRAIN, CONTEXT)]
        while visible and dataset.role[visible[-1]] != TRAIN:
            visible.pop()
        for begin, end in cut(len(visible) - 1, config):
            tokens = [token(dataset, visible[begin:end], position) for position in range(end - begin)]
            for position in range(end - begin):
                target = visible[begin + position + 1]
                if dataset.role[target] == TRAIN:
                    tokens[position] |= {
                        "target": int(dataset.item[target]),
                        "target_domain": int(dataset.domain[target]),
                        "target_time": int(dataset.time[target]) - dataset.manifest.time_origin,
                        "previous": latest_in(
                            dataset, visible[begin : begin + position + 1], int(dataset.domain[target])
                        ),
                        "weight": 1,
                    }
            if any(entry["weight"] for entry in tokens):
                segments.append((user, tokens))
    return segments


def cut(tokens: int, config: BatchingConfig) -> list[tuple[int, int]]:
    """(begin, end) of the windows over a sequence that has so many tokens."""
    if tokens <= 0:
        return []
    if config.window == "last":
        begin = max(0, tokens - config.max_length)
        return [(begin, tokens)]
    windows = [(0, min(tokens, config.max_length))]
    while windows[-1][1] < tokens:
        begin = windows[-1][1]
        windows.append((begin, min(tokens, begin + config.max_length)))
    return windows


NAMES = {"previous": "previous_in_target_domain"}


def segments_of(batch: Batch) -> list[tuple[int, list[dict[str, int]]]]:
    """(user, tokens) of every segment of a batch; `previous` is counted from the segment's start."""
    found = []
    fields: dict[str, Any] = {name: np.asarray(getattr(batch, NAMES.get(name, name))) for name in token_names()}
    for row in range(batch.item.shape[0]):
        numbers = sorted(set(batch.segment[row].tolist()) - {0})
        assert numbers == list(range(1, len(numbers) + 1))
        assert (np.diff(batch.segment[row][batch.segment[row] > 0]) >= 0).all()
        for number in numbers:
            columns = np.flatnonzero(batch.segment[row] == number)
            assert (np.diff(columns) == 1).all()
            tokens = [{name: int(values[row, column]) for name, values in fields.items()} for column in columns]
            for entry in tokens:
                assert entry["previous"] == -1 or entry["previous"] in columns
                entry["previous"] -= int(columns[0]) if entry["previous"] >= 0 else 0
            found.append((int(batch.segment_user[row, number - 1]), tokens))
        assert (batch.segment_user[row, len(numbers) :] == -1).all()
    return found


def token_names() -> tuple[str, ...]:
    """The names of `token`."""
    return (
        "item", "domain", "event", "time", "position", "domain_position",
        "target", "target_domain", "target_time", "previous", "weight",
    )  # fmt: skip


def in_order(segments: list[tuple[int, list[dict[str, int]]]]) -> list[Any]:
    """The segments in an order that depends on their contents alone."""
    return sorted((user, [tuple(sorted(entry.items())) for entry in tokens]) for user, tokens in segments)


def assert_padding_is_empty(batch: Batch) -> None:
    """A slot without a segment holds nothing at all."""
    empty = batch.segment == 0
    for name in token_names():
        values = np.asarray(getattr(batch, NAMES.get(name, name)))[empty]
        assert (values == (-1 if name == "previous" else 0)).all(), name
