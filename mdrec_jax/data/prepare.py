"""From raw logs to a prepared dataset: clean, order, filter, number, split, write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Int8, Int32, Int64

from mdrec_jax.data.catalogue import Catalogue, make_catalogue
from mdrec_jax.data.dataset import Dataset, file_hash, open_dataset
from mdrec_jax.data.extras import write_candidates, write_features
from mdrec_jax.data.filters import Duplicates, k_core, latest, offsets_of, without_duplicates
from mdrec_jax.data.ingest import Events, Vocabulary, ingest
from mdrec_jax.data.manifest import ROLES, SCHEMA, Counts, DomainCounts, Manifest, SourceFile, combined_hash
from mdrec_jax.data.ordering import Tie, sort_events
from mdrec_jax.data.people import number_users, rank_people
from mdrec_jax.data.sources import find_source
from mdrec_jax.data.sources.rawlog import RawLog, SourceOptions
from mdrec_jax.data.splits import assign_roles, parse_split
from mdrec_jax.data.writer import check_target, stored_files, write_columns, write_tables, writing
from mdrec_jax.errors import InputError

CREATED_BY = "mdrec_jax 0.1.0"


@dataclass(frozen=True)
class PrepareOptions:
    """How a log becomes a dataset; None = what the source says.

    Args:
        min_user, min_item: the k-core: events a user and an item must have, applied until nothing changes.
        max_len: only the latest events of a sequence.
        min_rating: events rated lower are left out.
        target_events: the behaviour types that are predicted; others are only read. Empty = all are predicted.
        duplicates: which of the events of one sequence, domain, item and type stay.
        tie: how events of equal time are ordered.
        items_across: whether equal raw ids in two domains are one item.
        split: see `splits.parse_split`.
        seed: keys the ids and the ties.
        extend: a prepared dataset whose users, items, domains and event types keep their numbers.
        source: what the user says about the files.
    """

    min_user: int | None = None
    min_item: int | None = None
    max_len: int | None = None
    min_rating: float | None = None
    target_events: tuple[str, ...] = ()
    duplicates: Duplicates = "keep"
    tie: Tie = "seeded"
    items_across: Literal["shared", "separate"] | None = None
    split: str | None = None
    seed: int = 0
    extend: Path | None = None
    source: SourceOptions = field(default_factory=SourceOptions)

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        for name, least in (("min_user", 1), ("min_item", 1), ("max_len", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = "--" + name.replace("_", "-")
                raise InputError("option out of range", column=flag, found=value, expected=f"at least {least}")
        if self.min_rating is not None and not np.isfinite(self.min_rating):
            raise InputError("option out of range", column="--min-rating", found=self.min_rating, expected="a number")


def prepare(source: str, paths: Sequence[Path], out: Path, options: PrepareOptions | None = None) -> Dataset:
    """Reads raw logs and writes the prepared dataset `out`.

    Args:
        source: a name of `sources.SOURCES`.
        paths: files or folders, as the source expects them.
        out: a new folder, or a prepared dataset, which is replaced in one step.
        options: filters, ties, split.

    Raises:
        InputError: anything that is wrong with the input, the options or `out`; `out` is then as it was.
    """
    options = options or PrepareOptions()
    options.check()
    check_target(out)
    parent = open_dataset(options.extend, verify=True) if options.extend else None
    return write_log(find_source(source)(paths, options.source), source, out, options, parent=parent)


def write_log(
    log: RawLog,
    source: str,
    out: Path,
    options: PrepareOptions,
    *,
    parent: Dataset | None = None,
    extra: Callable[[Path], None] | None = None,
) -> Dataset:
    """Writes the dataset of a log that was read already; `extra` may add files to the folder before it is sealed.

    Raises:
        InputError: as `prepare`.
    """
    check_target(out)
    split = parse_split(options.split or log.default_split)
    items_across = _items_across(log, options, parent)
    if parent is not None:
        log = _continue_names(log, parent)
    events, vocabulary, left_out = ingest(log, items_across=items_across, min_rating=options.min_rating)
    dropped = {**log.dropped, **left_out}
    people = rank_people(events, vocabulary, parent, options.seed)
    events = sort_events(
        events, vocabulary, people.sequence_rank, ordered=log.ordered, tie=options.tie, seed=options.seed
    )
    events, filters = _filter(events, vocabulary, log, options, dropped)
    offsets = offsets_of(events.sequence)
    targets = _may_be_target(events, vocabulary, options)
    role = assign_roles(split, offsets, events.domain, targets, events.time, events.role)
    catalogue = make_catalogue(events, vocabulary, log, items_across, parent, options.seed)
    dropped.update(catalogue.dropped)
    first = events.take(offsets[:-1])
    number, users = number_users(people, first.user)
    sequence_user = number[people.user_rank[first.user]]
    raw = vocabulary.users if vocabulary.sequences is None else vocabulary.sequences
    sequences = pl.DataFrame({"raw": raw.gather(first.sequence)}).with_row_index("index")
    origin = _time_origin(events, parent)
    with writing(out) as folder:
        write_columns(folder, _columns(events, catalogue, offsets, sequence_user, role))
        write_tables(folder, users, vocabulary.domains, catalogue.tables)
        dropped.update(
            write_features(folder / "features", log, catalogue.ids, vocabulary.domains, catalogue.count, items_across)
        )
        dropped.update(write_candidates(folder / "candidates", log, catalogue.ids, sequences, vocabulary.domains))
        if extra is not None:
            extra(folder)
        files = stored_files(folder)
        Manifest(
            schema=SCHEMA,
            source=source,
            created_by=CREATED_BY,
            sources=tuple(SourceFile(file.name, file_hash(file), file.stat().st_size) for file in log.files),
            files=files,
            domains=vocabulary.domains,
            event_types=vocabulary.event_types,
            counts=_count(events, vocabulary, catalogue, len(users), sequence_user, offsets, role, dropped),
            split=split.to_json(),
            filters=filters,
            tie=options.tie if log.has_time or not log.ordered else "file",
            seed=options.seed,
            items_across=items_across,
            has_time=log.has_time,
            ordered=log.ordered,
            time_origin=origin,
            parent=parent.hash if parent else None,
            hash=combined_hash(files),
        ).write(folder)
    return open_dataset(out)


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
    from dataclasses import replace

    def after(old: tuple[str, ...], declared: tuple[str, ...], column: str) -> tuple[str, ...]:
        names = declared or log.events.select(pl.col(column).unique()).collect()[column].drop_nulls().sort().to_list()
        return old + tuple(name for name in names if name not in old)

    return replace(
        log,
        domains=after(parent.manifest.domains, log.domains, "domain"),
        event_types=after(parent.manifest.event_types, log.event_types, "event"),
    )


def _filter(
    events: Events, vocabulary: Vocabulary, log: RawLog, options: PrepareOptions, dropped: dict[str, int]
) -> tuple[Events, dict[str, object]]:
    """The events that stay, and the filters that were applied; what went is added to `dropped`."""
    min_user = log.min_user if options.min_user is None else options.min_user
    min_item = log.min_item if options.min_item is None else options.min_item
    total = len(events)

    def keep(mask: np.ndarray, **counts: int) -> None:
        nonlocal events
        dropped.update({reason: count for reason, count in counts.items() if count})
        if not mask.all():
            events = events.take(mask)

    if options.duplicates != "keep":
        mask = without_duplicates(events, options.duplicates)
        keep(mask, duplicates=int((~mask).sum()))
    mask, counts = k_core(events.user, events.item, min_user, min_item, vocabulary.unknown_items)
    keep(mask, **counts)
    if options.max_len is not None:
        mask = latest(offsets_of(events.sequence), options.max_len)
        keep(mask, max_len=int((~mask).sum()))
    if not len(events):
        left_out = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise InputError(
            "the filters leave no events",
            found=f"0 of {total} events ({left_out})",
            expected="at least one",
            hint=f"smaller values of --min-user (now {min_user}) and --min-item (now {min_item})",
        )
    filters = {
        "min_user": min_user,
        "min_item": min_item,
        "max_len": options.max_len,
        "min_rating": options.min_rating,
        "target_events": list(options.target_events),
        "duplicates": options.duplicates,
    }
    return events, filters


def _may_be_target(events: Events, vocabulary: Vocabulary, options: PrepareOptions) -> Bool[np.ndarray, " N"]:
    allowed = np.ones(len(events), bool)
    if options.target_events:
        for name in options.target_events:
            if name not in vocabulary.event_types:
                expected = "one of " + ", ".join(vocabulary.event_types)
                raise InputError("unknown event type", column="--target-events", found=name, expected=expected)
        codes = [vocabulary.event_types.index(name) for name in options.target_events]
        allowed &= np.isin(events.event, codes)
    if len(vocabulary.unknown_items):
        allowed &= ~np.isin(events.item, vocabulary.unknown_items)
    return allowed


def _time_origin(events: Events, parent: Dataset | None) -> int:
    if events.time is None:
        return 0
    first = int(events.time.min())
    return min(first, parent.manifest.time_origin) if parent is not None and parent.manifest.has_time else first


def _columns(
    events: Events,
    catalogue: Catalogue,
    offsets: Int64[np.ndarray, " S+1"],
    sequence_user: Int32[np.ndarray, " S"],
    role: Int8[np.ndarray, " N"],
) -> dict[str, np.ndarray]:
    return {
        "sequence_offsets": offsets,
        "sequence_user": sequence_user,
        "item": catalogue.item_id[events.item],
        "domain": events.domain,
        "event": events.event,
        "time": events.time if events.time is not None else np.zeros(len(events), np.int64),
        "role": role,
    }


def _count(
    events: Events,
    vocabulary: Vocabulary,
    catalogue: Catalogue,
    users: int,
    sequence_user: Int32[np.ndarray, " S"],
    offsets: Int64[np.ndarray, " S+1"],
    role: Int8[np.ndarray, " N"],
    dropped: dict[str, int],
) -> Counts:
    user = np.repeat(sequence_user, np.diff(offsets))
    domains = {}
    for index, name in enumerate(vocabulary.domains):
        inside = events.domain == index
        present = np.zeros(users, bool)
        present[user[inside]] = True
        domains[name] = DomainCounts(
            users=int(present.sum()), items=len(catalogue.tables[index]), events=int(inside.sum())
        )
    return Counts(
        users=users,
        sequences=len(sequence_user),
        events=len(events),
        items=catalogue.count,
        domains=domains,
        roles={name: int((role == place).sum()) for place, name in enumerate(ROLES)},
        dropped={reason: int(count) for reason, count in dropped.items() if count},
    )
