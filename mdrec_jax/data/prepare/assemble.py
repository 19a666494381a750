"""A log in memory on its way to a dataset: read, ordered, filtered, split, numbered."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int8, Int32, Int64

from mdrec_jax.data.checks import first_file
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.manifest import ROLES, Counts, DomainCounts
from mdrec_jax.data.prepare.catalogue import Catalogue, make_catalogue
from mdrec_jax.data.prepare.domains import check_names, check_only, only_events, only_metadata
from mdrec_jax.data.prepare.filters import k_core, latest, offsets_of, without_duplicates
from mdrec_jax.data.prepare.ingest import Events, Vocabulary, ingest
from mdrec_jax.data.prepare.options import PrepareOptions
from mdrec_jax.data.prepare.ordering import sort_events
from mdrec_jax.data.prepare.splits import Split, assign_roles, parse_split, refuse_empty
from mdrec_jax.data.prepare.user_table import number_users, rank_people
from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError


@dataclass(frozen=True)
class Assembled:
    """All that a dataset's files are made of.

    Args:
        log: what the source brings beside them.
        events: N events by sequence, oldest first.
        vocabulary: their strings.
        catalogue: the items.
        users: raw, one row a user.
        sequences: raw and index of the S sequences.
        sequence_user: [S].
        offsets: [S + 1], where sequences start.
        role: [N].
        split, filters, items_across: the rules that were applied.
        dropped: what was left out, by reason.
    """

    log: RawLog
    events: Events
    vocabulary: Vocabulary
    catalogue: Catalogue
    users: pl.DataFrame
    sequences: pl.DataFrame
    sequence_user: Int32[np.ndarray, " S"]
    offsets: Int64[np.ndarray, " S+1"]
    role: Int8[np.ndarray, " N"]
    split: Split
    filters: dict[str, Any]
    items_across: str
    dropped: dict[str, int]

    def columns(self) -> dict[str, np.ndarray]:
        """The columns as they are stored."""
        events = self.events
        return {
            "sequence_offsets": self.offsets,
            "sequence_user": self.sequence_user,
            "item": self.catalogue.item_id[events.item],
            "domain": events.domain,
            "event": events.event,
            "time": events.time if events.time is not None else np.zeros(len(events), np.int64),
            "role": self.role,
        }

    def counts(self, dropped: dict[str, int]) -> Counts:
        """How much there is of everything; `dropped` comes on top of what was left out before."""
        user = np.repeat(self.sequence_user, np.diff(self.offsets))
        domains = {}
        for index, name in enumerate(self.vocabulary.domains):
            inside = self.events.domain == index
            present = np.zeros(len(self.users), bool)
            present[user[inside]] = True
            domains[name] = DomainCounts(
                users=int(present.sum()), items=len(self.catalogue.tables[index]), events=int(inside.sum())
            )
        return Counts(
            users=len(self.users),
            sequences=len(self.sequence_user),
            events=len(self.events),
            items=self.catalogue.count,
            domains=domains,
            roles={name: int((self.role == place).sum()) for place, name in enumerate(ROLES)},
            dropped={reason: int(count) for reason, count in (self.dropped | dropped).items() if count},
        )


def assemble(log: RawLog, options: PrepareOptions, parent: Dataset | None) -> Assembled:
    """Reads a log and decides everything about its dataset.

    Raises:
        InputError: a bad value, nothing left by a filter, an empty part of the split, a parent that does not fit.
    """
    split = parse_split(options.split or log.default_split)
    items_across = _items_across(log, options, parent)
    if parent is not None:
        log = _continue_names(log, parent)
    events, vocabulary, left_out = ingest(log, items_across=items_across, min_rating=options.min_rating)
    people = rank_people(events, vocabulary, parent, options.seed)
    events = sort_events(
        events, vocabulary, people.sequence_rank, ordered=log.ordered, tie=options.tie, seed=options.seed
    )
    check_names(vocabulary.domains, first_file(log))
    check_only(options.only_domains, vocabulary.domains)
    dropped = {**log.dropped, **left_out}
    filters = _filters(log, options)
    events = _filter(events, vocabulary, filters, dropped)
    offsets = offsets_of(events.sequence)
    targets = _may_be_target(events, vocabulary, options)
    role = assign_roles(split, offsets, events.domain, targets, events.time, events.role)
    if options.only_domains:
        total, log = len(events), only_metadata(log, options.only_domains)
        events, role, vocabulary = only_events(events, role, vocabulary, options.only_domains)
        refuse_empty(split, role)
        offsets, dropped["other domains"] = offsets_of(events.sequence), total - len(events)
    catalogue = make_catalogue(events, vocabulary, log, items_across, parent, options.seed)
    first = events.take(offsets[:-1])
    number, users = number_users(people, first.user)
    raw = vocabulary.users if vocabulary.sequences is None else vocabulary.sequences
    return Assembled(
        log=log,
        events=events,
        vocabulary=vocabulary,
        catalogue=catalogue,
        users=users,
        sequences=pl.DataFrame({"raw": raw.gather(first.sequence)}).with_row_index("index"),
        sequence_user=number[people.user_rank[first.user]],
        offsets=offsets,
        role=role,
        split=split,
        filters=filters,
        items_across=items_across,
        dropped=dropped | catalogue.dropped,
    )


def _items_across(log: RawLog, options: PrepareOptions, parent: Dataset | None) -> str:
    items_across = options.items_across or log.items_across
    if parent is not None and parent.manifest.items_across != items_across:
        raise InputError(
            "the dataset to extend treats equal items of two domains otherwise",
            file=parent.path,
            column="items_across",
            found=parent.manifest.items_across,
            expected=items_across,
            hint=f"--items-across {parent.manifest.items_across}",
        )
    return items_across


def _continue_names(log: RawLog, parent: Dataset) -> RawLog:
    """The log with the parent's domains and event types first, in their old order."""

    def after(old: tuple[str, ...], declared: tuple[str, ...], column: str) -> tuple[str, ...]:
        if not declared:
            found = log.events.select(pl.col(column).unique()).collect(engine="streaming")[column]
            declared = tuple(name for name in found.drop_nulls().sort() if name)
        return old + tuple(name for name in declared if name not in old)

    return replace(
        log,
        domains=after(parent.manifest.domains, log.domains, "domain"),
        event_types=after(parent.manifest.event_types, log.event_types, "event"),
    )


def _filters(log: RawLog, options: PrepareOptions) -> dict[str, Any]:
    return {
        "min_user": log.min_user if options.min_user is None else options.min_user,
        "min_item": log.min_item if options.min_item is None else options.min_item,
        "max_len": options.max_len,
        "min_rating": options.min_rating,
        "target_events": list(options.target_events),
        "only_domains": list(options.only_domains),
        "duplicates": options.duplicates,
    }


def _filter(events: Events, vocabulary: Vocabulary, filters: dict[str, Any], dropped: dict[str, int]) -> Events:
    """The events that stay; what went is added to `dropped`."""
    total = len(events)

    def keep(events: Events, mask: Bool[np.ndarray, " N"], counts: dict[str, int]) -> Events:
        dropped.update({reason: count for reason, count in counts.items() if count})
        return events if mask.all() else events.take(mask)

    if filters["duplicates"] != "keep":
        mask = without_duplicates(events, filters["duplicates"])
        events = keep(events, mask, {"duplicates": int((~mask).sum())})
    events = keep(
        events, *k_core(events.user, events.item, filters["min_user"], filters["min_item"], vocabulary.unknown_items)
    )
    if filters["max_len"] is not None:
        mask = latest(offsets_of(events.sequence), filters["max_len"])
        events = keep(events, mask, {"max_len": int((~mask).sum())})
    if not len(events):
        left_out = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise InputError(
            "the filters leave no events",
            found=f"0 of {total} events ({left_out})",
            expected="at least one",
            hint=f"a smaller --min-user (now {filters['min_user']}) or --min-item (now {filters['min_item']})",
        )
    return events


def _may_be_target(events: Events, vocabulary: Vocabulary, options: PrepareOptions) -> Bool[np.ndarray, " N"]:
    allowed = np.ones(len(events), bool)
    for name in options.target_events:
        if name not in vocabulary.event_types:
            expected = "one of " + ", ".join(vocabulary.event_types)
            raise InputError("unknown event type", column="--target-events", found=name, expected=expected)
    if options.target_events:
        allowed &= np.isin(events.event, [vocabulary.event_types.index(name) for name in options.target_events])
    if len(vocabulary.unknown_items):
        allowed &= ~np.isin(events.item, vocabulary.unknown_items)
    return allowed
