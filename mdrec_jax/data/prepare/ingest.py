"""From a source's lazy frame of strings to arrays of small integers, in one streaming pass."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int8, Int16, Int32, Int64, UInt32

from mdrec_jax.data.checks import BAD_RATING, check_values, error_at, first_file, leave_out
from mdrec_jax.data.ids import dense_codes
from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError

MAX_DOMAINS = 1 << 15


@dataclass(frozen=True)
class Vocabulary:
    """The strings behind the codes of Events.

    Args:
        users, sequences: raw ids by code; `sequences` is None where a user is one sequence.
        items: raw ids by code; with separate items a raw id occurs once for each of its domains.
        domains, event_types: names by code.
        unknown_items: the codes that stand for an item outside the source's vocabulary.
    """

    users: pl.Series
    sequences: pl.Series | None
    items: pl.Series
    domains: tuple[str, ...]
    event_types: tuple[str, ...]
    unknown_items: Int32[np.ndarray, " k"]


@dataclass(frozen=True)
class Events:
    """Events as codes, one array a column; `sequence` is `user` where a user is one sequence. `fraction` is nanoseconds
    of the second, None where no time has any."""

    user: UInt32[np.ndarray, " N"]
    sequence: UInt32[np.ndarray, " N"]
    item: Int32[np.ndarray, " N"]
    domain: Int16[np.ndarray, " N"]
    event: Int16[np.ndarray, " N"]
    order: Int64[np.ndarray, " N"]
    time: Int64[np.ndarray, " N"] | None
    fraction: Int32[np.ndarray, " N"] | None
    role: Int8[np.ndarray, " N"] | None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> "Events":
        """The events at the places (or under the mask) `which`."""
        user = self.user[which]
        return Events(
            user=user,
            sequence=user if self.sequence is self.user else self.sequence[which],
            item=self.item[which],
            domain=self.domain[which],
            event=self.event[which],
            order=self.order[which],
            time=None if self.time is None else self.time[which],
            fraction=None if self.fraction is None else self.fraction[which],
            role=None if self.role is None else self.role[which],
        )


def ingest(log: RawLog, *, items_across: str, min_rating: float | None) -> tuple[Events, Vocabulary, dict[str, int]]:
    """Reads a source once, in bounded memory: every string becomes a number while it streams by.

    Args:
        log: the source.
        items_across: "shared" or "separate", see RawLog.
        min_rating: events rated lower are left out.

    Returns:
        (events in no particular order, their vocabulary, events left out by reason).

    Raises:
        InputError: a missing, negative or unparsable value, with its place; no events; a domain that is not known.
    """
    codes = {name: pl.Categories.random() for name in _string_columns(log)}
    frame = _collect(log, codes, min_rating)
    if log.bad_rows is not None:
        frame = leave_out(log, frame, log.bad_rows)
    if frame.is_empty():
        raise InputError("there are no events", file=first_file(log), found="0 rows", expected="at least one event")
    check_values(log, frame)
    dropped = log.bad_rows.by_reason() if log.bad_rows is not None else {}
    if "_keep" in frame.columns:
        kept = frame.filter("_keep")
        dropped["rating"] = len(frame) - len(kept)
        frame = kept
        if kept.is_empty():
            raise InputError("no event is rated high enough", column="--min-rating", found=min_rating)
    events, vocabulary = _encode(log, frame, codes, items_across)
    return events, vocabulary, dropped


def _encode(
    log: RawLog, frame: pl.DataFrame, codes: dict[str, pl.Categories], items_across: str
) -> tuple[Events, Vocabulary]:
    names = {name: categories.to_series().cast(pl.String) for name, categories in codes.items()}
    domain, domains = _named(frame, names["domain"], log.domains, "domain", log)
    event, event_types = _named(frame, names["event"], log.event_types, "event", log)
    item, items = _codes(frame["item"]).astype(np.int32), names["item"]
    if items_across == "separate" and len(domains) > 1:
        item, pairs = dense_codes(item.astype(np.int64) * len(domains) + domain, len(items) * len(domains))
        items = items.gather(pairs // len(domains))
    unknown = np.flatnonzero((items == log.unknown_item).to_numpy()) if log.unknown_item is not None else []
    vocabulary = Vocabulary(
        users=names["user"],
        sequences=names.get("sequence"),
        items=items,
        domains=domains,
        event_types=event_types,
        unknown_items=np.asarray(unknown, np.int32),
    )
    user = _codes(frame["user"])
    events = Events(
        user=user,
        sequence=_codes(frame["sequence"]) if "sequence" in names else user,
        item=item,
        domain=domain,
        event=event,
        order=frame["order"].to_numpy(),
        time=frame["time"].to_numpy() if log.has_time else None,
        fraction=_fraction(frame),
        role=frame["role"].to_numpy() if "role" in frame.columns else None,
    )
    return events, vocabulary


def _fraction(frame: pl.DataFrame) -> Int32[np.ndarray, " N"] | None:
    if "fraction" not in frame.columns or not (frame["fraction"] != 0).any():
        return None
    return frame["fraction"].to_numpy()


def _string_columns(log: RawLog) -> list[str]:
    present = log.events.collect_schema().names()
    return [name for name in ("user", "item", "domain", "event", "sequence") if name in present]


def _collect(log: RawLog, codes: dict[str, pl.Categories], min_rating: float | None) -> pl.DataFrame:
    present = log.events.collect_schema().names()
    columns = [pl.col(name).cast(pl.Categorical(categories)) for name, categories in codes.items()]
    columns.append(pl.col("order").cast(pl.Int64))
    columns += [pl.col("time").cast(pl.Int64)] if log.has_time else []
    columns += [pl.col("fraction").cast(pl.Int32)] if log.has_time and "fraction" in present else []
    columns += [pl.col("role").cast(pl.Int8)] if "role" in present else []
    if "rating" in present:
        rating = pl.col("rating").cast(pl.Float64)
        unusable = rating.is_nan() | rating.is_infinite() | (rating < 0)  # null = not rated, which only a filter minds
        columns.append(unusable.fill_null(min_rating is not None).alias(BAD_RATING))
        columns += [(rating >= min_rating).alias("_keep")] if min_rating is not None else []
    elif min_rating is not None:
        raise InputError("a smallest rating was asked for but there are no ratings", file=first_file(log))
    try:
        return log.events.select(columns).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError("the events cannot be read", file=first_file(log), found=error) from error


def _codes(column: pl.Series) -> UInt32[np.ndarray, " N"]:
    return column.to_physical().to_numpy()


def _named(
    frame: pl.DataFrame, names: pl.Series, declared: tuple[str, ...], what: str, log: RawLog
) -> tuple[Int16[np.ndarray, " N"], tuple[str, ...]]:
    """Codes by the declared order of the names, or by their sorted order where none is declared."""
    if len(names) > MAX_DOMAINS:
        raise InputError(
            f"too many different values for a {what}",
            file=first_file(log),
            column=what,
            found=f"{len(names)} values",
            expected=f"at most {MAX_DOMAINS}",
            hint=f"is this the right column for the {what}?",
        )
    found = names.to_list()
    order = list(declared) or sorted(found)
    for name in found:
        if name not in order:
            first = frame.filter(pl.col(what).cast(pl.String) == name)["order"].to_numpy().min()
            at = error_at(log, int(first), what)
            expected = "one of " + ", ".join(order)
            raise InputError(f"unknown {what}", file=at.file, row=at.row, column=what, found=name, expected=expected)
    place = np.array([order.index(name) for name in found], np.int16)
    return place[_codes(frame[what])], tuple(order)
