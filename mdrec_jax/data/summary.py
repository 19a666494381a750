"""What a prepared dataset is like: counts, lengths, overlap, cold targets, ties, and whether id order leaks answers."""

import time as clock
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from mdrec_jax.data.checks import EARLY
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.data.prepare.ordering import raw_rank
from mdrec_jax.data.prepare.repeats import ascending_share, copies, same_time_share, with_later_training
from mdrec_jax.data.prepare.splits import TEST, TRAIN

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PROBE_AT = 10
PROBE_LEAST = 100
"""Queries that a probe needs before it is believed."""
DAY = 24 * 3600
ID_ORDER = 0.05
"""How far from a half the share of neighbours that ascend by id may be before a note says so."""
LEAK = 3.0
"""How many times chance a probe must reach before a summary calls it a leak."""


@dataclass(frozen=True)
class Lengths:
    """Events a sequence: least, QUANTILES, mean, most."""

    least: int
    quantiles: tuple[float, ...]
    mean: float
    most: int


@dataclass(frozen=True)
class LeakProbe:
    """How often a test target is among the PROBE_AT items whose ids stand nearest to the last item of its domain.

    Args:
        queries: test targets with an earlier event in their domain, of another item.
        ids: share found by the dataset's own ids.
        raw: share found by the order of raw ids (as numbers where all are, else as text).
        chance: share that ids without information would find.
    """

    queries: int
    ids: float
    raw: float
    chance: float


@dataclass(frozen=True)
class DomainSummary:
    name: str
    users: int
    items: int
    events: int
    test_targets: int
    cold_share: float
    leak: LeakProbe


@dataclass(frozen=True)
class Overlap:
    """How many users have events in both of two domains, how many items belong to both, how many raw ids are equal."""

    first: str
    second: str
    users: int
    items: int
    raw_items: int


@dataclass(frozen=True)
class Summary:
    lengths: Lengths
    domains: tuple[DomainSummary, ...]
    overlaps: tuple[Overlap, ...]
    cold_share: float
    same_time_share: float | None
    first_time: int
    last_time: int


def summarise(dataset: Dataset) -> Summary:
    """Looks at the whole of a dataset once."""
    offsets = np.asarray(dataset.sequence_offsets)
    item, domain, role = (np.asarray(column) for column in (dataset.item, dataset.domain, dataset.role))
    length = np.diff(offsets)
    trained = np.zeros(dataset.num_items, bool)
    trained[item[role == TRAIN]] = True
    cold = ~trained[item]
    tests = role == TEST
    domains = []
    for index, name in enumerate(dataset.manifest.domains):
        mine = tests & (domain == index)
        counts = dataset.manifest.counts.domains[name]
        domains.append(
            DomainSummary(
                name=name,
                users=counts.users,
                items=counts.items,
                events=counts.events,
                test_targets=int(mine.sum()),
                cold_share=_share(cold[mine]),
                leak=_probe(dataset, offsets, index),
            )
        )
    return Summary(
        lengths=Lengths(
            least=int(length.min()),
            quantiles=tuple(float(value) for value in np.quantile(length, QUANTILES)),
            mean=float(length.mean()),
            most=int(length.max()),
        ),
        domains=tuple(domains),
        overlaps=_overlaps(dataset, offsets),
        cold_share=_share(cold[tests]),
        same_time_share=same_time_share(dataset) if dataset.manifest.has_time else None,
        first_time=int(dataset.time.min()),
        last_time=int(dataset.time.max()),
    )


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _overlaps(dataset: Dataset, offsets: Int64[np.ndarray, " S+1"]) -> tuple[Overlap, ...]:
    names = dataset.manifest.domains
    user = np.repeat(np.asarray(dataset.sequence_user), np.diff(offsets))
    present = np.zeros((len(names), dataset.num_users), bool)
    present[np.asarray(dataset.domain), user] = True
    raw = [dataset.items(index).select("raw") for index in range(len(names))]
    return tuple(
        Overlap(
            first=names[one],
            second=names[two],
            users=int((present[one] & present[two]).sum()),
            items=len(np.intersect1d(dataset.domain_items[one], dataset.domain_items[two], assume_unique=True)),
            raw_items=len(raw[one].join(raw[two], on="raw", how="semi")),
        )
        for one in range(len(names))
        for two in range(one + 1, len(names))
    )


def _probe(dataset: Dataset, offsets: Int64[np.ndarray, " S+1"], domain: int) -> LeakProbe:
    last, target = _last_and_target(dataset, offsets, domain)
    table = dataset.items(domain)
    count = len(table)
    chance = min(1.0, PROBE_AT / max(1, count - 1))
    if not len(target):
        return LeakProbe(0, 0.0, 0.0, chance)
    place = np.zeros(dataset.num_items, np.int64)
    place[dataset.domain_items[domain]] = np.arange(count)
    by_id = _nearest_hits(place[last], place[target], count)
    place[table["id"].to_numpy()] = raw_rank(table["raw"]) - 1
    by_raw = _nearest_hits(place[last], place[target], count)
    return LeakProbe(len(target), float(by_id.mean()), float(by_raw.mean()), chance)


def _last_and_target(
    dataset: Dataset, offsets: Int64[np.ndarray, " S+1"], domain: int
) -> tuple[Int32[np.ndarray, " Q"], Int32[np.ndarray, " Q"]]:
    """For every test target of a domain that has one, the latest event before it in its sequence and domain that is
    no test target itself."""
    item, role = np.asarray(dataset.item), np.asarray(dataset.role)
    inside = np.flatnonzero((np.asarray(dataset.domain) == domain) & (item >= FIRST_ITEM))
    sequence = np.searchsorted(offsets, inside, side="right") - 1
    readable = role[inside] != TEST
    latest = np.maximum.accumulate(np.where(readable, np.arange(len(inside)), -1))
    asked = np.flatnonzero(~readable)
    before = latest[asked]
    good = before >= 0
    good[good] = sequence[before[good]] == sequence[asked[good]]
    last, target = item[inside[before[good]]], item[inside[asked[good]]]
    return last[last != target], target[last != target]


def _nearest_hits(last: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """Whether the target is among the PROBE_AT nearest places to the last item's (half of a tie before it)."""
    distance = np.abs(last - target)
    nearer = np.minimum(last, distance - 1) + np.minimum(count - 1 - last, distance - 1)
    mirror = 2 * last - target
    tied = (mirror >= 0) & (mirror < count)
    return 1 + nearer + 0.5 * tied <= PROBE_AT


def summary_lines(dataset: Dataset, summary: Summary) -> Iterator[str]:
    """The summary as text, a line at a time."""
    manifest = dataset.manifest
    counts = manifest.counts
    split = " ".join(f"{value}" for value in manifest.split.values())
    order = "with times" if manifest.has_time else "in order, without times" if manifest.ordered else "without order"
    yield f"{dataset.path}: {manifest.source}, {order}, split {split}, ties {manifest.tie}, hash {manifest.hash[:12]}"
    yield (
        f"{counts.users:,} users  {counts.sequences:,} sequences  {counts.items:,} items  {counts.events:,} events  "
        + "  ".join(f"{name} {number:,}" for name, number in counts.roles.items() if number)
    )
    low, *middle, high = summary.lengths.quantiles
    yield (
        f"events a sequence: least {summary.lengths.least}, 5 % {low:g}, quartiles "
        + " ".join(f"{value:g}" for value in middle)
        + f", 95 % {high:g}, most {summary.lengths.most}, mean {summary.lengths.mean:.2f}"
    )
    yield f"test targets that never occur in training: {summary.cold_share:.1%}"
    if summary.same_time_share is not None:
        first, last = _date(summary.first_time), _date(summary.last_time)
        yield f"times: {first} to {last} (UTC); neighbouring events of the same second: {summary.same_time_share:.1%}"
    later, tests = with_later_training(dataset)
    if later and manifest.ordered:
        yield (
            f"test targets with training events of the same user behind them: {later:,} of {tests:,} "
            f"({later / tests:.1%}; split loo-mixed: none)"
        )
    if number := copies(dataset):
        yield f"events that repeat another in all but the row: {number:,}"
    if counts.dropped:
        yield "left out: " + ", ".join(f"{reason} {number:,}" for reason, number in counts.dropped.items())
    yield ""
    yield from _aligned(
        ["domain", "users", "items", "events", "test", "cold", f"nearest {PROBE_AT} ids", "by raw id", "chance"],
        [
            [
                one.name,
                f"{one.users:,}",
                f"{one.items:,}",
                f"{one.events:,}",
                f"{one.test_targets:,}",
                f"{one.cold_share:.1%}",
                f"{one.leak.ids:.2%}",
                f"{one.leak.raw:.2%}",
                f"{one.leak.chance:.2%}",
            ]
            for one in summary.domains
        ],
    )
    if summary.overlaps:
        yield ""
        yield from _aligned(
            ["domains", "users in both", "items in both", "equal raw ids"],
            [
                [f"{one.first} + {one.second}", f"{one.users:,}", f"{one.items:,}", f"{one.raw_items:,}"]
                for one in summary.overlaps
            ],
        )
    for one in summary.domains:
        if one.leak.queries >= PROBE_LEAST and one.leak.raw > max(0.01, LEAK * one.leak.chance):
            yield (
                f"note: in {one.name} the order of raw ids finds {one.leak.raw:.1%} of the test targets "
                f"(chance {one.leak.chance:.1%}); the dataset's own ids are permuted"
            )


def notes(dataset: Dataset) -> Iterator[str]:
    """What whoever prepared a dataset should look at."""
    if dataset.manifest.ordered:
        pairs, share = ascending_share(dataset)
        if pairs >= PROBE_LEAST and abs(share - 0.5) > max(ID_ORDER, 2 / pairs**0.5):
            timed = dataset.manifest.has_time
            kind, part = ("one second", "the") if timed else ("a user", "part of the")
            yield (
                f"of {pairs:,} neighbouring events of {kind} {share:.1%} ascend by raw id, where half would by chance: "
                f"{part} order follows ids and not what happened first, and figures are higher for it"
            )
    if not dataset.manifest.has_time:
        if dataset.manifest.ordered:
            yield "there are no times; the order of the rows is the order of events"
        return
    first, last = int(dataset.time.min()), int(dataset.time.max())
    if number := copies(dataset):
        yield f"{number:,} events repeat another in all but the row: --duplicates exact leaves them out"
    if last < EARLY:
        yield (
            f"all times lie between {_date(first)} and {_date(last)}: are they seconds since 1970? (days, dates of a "
            "spreadsheet or step numbers keep their order, but what a model reads of time is then wrong)"
        )
    if last > clock.time() + DAY:
        yield f"the last time, {_date(last)}, lies in the future: look at --time-unit"


def _date(time: int) -> str:
    return str(np.datetime64(time, "s")).replace("T", " ")


def _aligned(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    for row in [header, *rows]:
        first, *others = zip(row, widths, strict=True)
        yield "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
