"""What a source hands to `prepare`: events as raw strings, and whatever it knows beside them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.times import Unit
from mdrec_jax.errors import InputError

ITEM_SCHEMA = {
    "item": pl.String,
    "title": pl.String,
    "category": pl.List(pl.String),
    "attributes": pl.List(pl.String),
}
"""Columns of an item metadata frame; only `item` must be there."""

CANDIDATE_SCHEMA = {"sequence": pl.String, "domain": pl.String, "negatives": pl.List(pl.String)}

MAX_NAME_BYTES = 4096
"""The longest id or name: every one is kept, and hashed byte by byte."""


@dataclass(frozen=True)
class SourceOptions:
    """What the user says about the files; a source that has no use for a given option refuses it by name.

    Args:
        user_column, item_column, time_column, domain_column, event_column, rating_column: columns of a table.
        domains: (name, path) pairs, one file or folder a domain, instead of a domain column.
        time_unit: how times are written; None = the source's own unit (a table: seconds, or dates such as 20140723
            where every value is one).
        items_file, item_id, title, category: a table of items and its columns.
        skip_bad_rows: rows that cannot be used are left out and counted; else the first one is refused.
        no_header: the first line of a text table is data, and its columns are called 1, 2, 3, ...
        separator: what stands between the fields of a text table, one character; None = as usual for the format.
        given: (train, validation or test; path) pairs of a split made elsewhere, instead of paths.
    """

    user_column: str | None = None
    item_column: str | None = None
    time_column: str | None = None
    domain_column: str | None = None
    event_column: str | None = None
    rating_column: str | None = None
    domains: tuple[tuple[str, Path], ...] = ()
    time_unit: Unit | None = None
    items_file: Path | None = None
    item_id: str | None = None
    title: str | None = None
    category: str | None = None
    skip_bad_rows: bool = False
    no_header: bool = False
    separator: str | None = None
    given: tuple[tuple[str, Path], ...] = ()

    def named_columns(self) -> dict[str, str]:
        """What a column holds -> the name that it was given."""
        named = {name.removesuffix("_column"): getattr(self, name) for name in TABLE_OPTIONS}
        return {what: name for what, name in named.items() if name is not None}

    def refuse(self, source: str, *names: str) -> None:
        """Refuses the named options where one was given: `source` would silently ignore it.

        Raises:
            InputError: an option of `names` is set.
        """
        for name in names:
            if getattr(self, name):
                flags = {"domains": "domain", "items_file": "items", "skip_bad_rows": "bad-rows", "given": "train-file"}
                flag = flags.get(name, name).replace("_", "-")
                raise InputError(f"the source '{source}' has no use for --{flag}", found=getattr(self, name))


OPTION_NAMES = tuple(option.name for option in fields(SourceOptions))
"""Every option; a source whose format leaves nothing to say refuses them all."""

TABLE_OPTIONS = ("user_column", "item_column", "time_column", "domain_column", "event_column", "rating_column")
"""The options that only a table reads."""


@dataclass(frozen=True)
class RawLog:
    """Events and side information of one source, before any filter.

    Equal raw user ids are one user in every domain; a source whose users are separate prefixes them.

    Args:
        events: user, item, domain, event: String; time: Int64 seconds since the epoch (absent when `has_time` is
            False); order: Int64, the event's position in the source, unique; and optionally fraction: Int32,
            nanoseconds of the second, which decide the order within it, sequence: String (default: the user), rating:
            Float64, role: Int8 (0 train, 1 validation target, 2 test target, 3 context: only for the split "given"). A
            null in any of them is bad input.
        has_time: whether `time` is there.
        ordered: whether the source knows the order of a sequence's events (by `time`, or else by `order`).
        files: every file that was read.
        items: domain -> frame of ITEM_SCHEMA columns (any subset with `item`, one row an item).
        features: name -> (raw item ids, array [len(ids), F] of a float type). With `items_across="separate"` the raw
            ids of a feature are looked up in the only domain, or are written `domain` + "\\t" + `item`.
        candidates: name -> frame of CANDIDATE_SCHEMA: fixed test candidates of a sequence.
        items_across: whether an equal raw id in two domains is one item or two.
        default_split: the split when the user names none: "loo", "loo-mixed", "given" or "time:T1,T2".
        dropped: what the source left out, counted by reason.
        domains: the domains' names in order; empty = the names that occur, sorted.
        event_types: the behaviour types' names in order; empty = the names that occur, sorted.
        keep_items: items of `items` without an event stay in the catalogue (they are candidates of a ranking).
        unknown_item: the raw id that marks an item outside the source's vocabulary: such an event is read as input,
            as item id 1, and is never a target, never in the catalogue, never counted as an item. None = no such mark.
        min_user, min_item: the k-core that the source needs when the user names none (1 = as published).
        bad_rows: counts the rows that are left out because they cannot be used; None = the first one is refused.
        locate: makes the error for a bad event from its `order` and the column's name here; None = `prepare` says
            the order alone.
    """

    events: pl.LazyFrame
    has_time: bool
    ordered: bool
    files: tuple[Path, ...]
    items: dict[str, pl.DataFrame] = field(default_factory=dict)
    features: dict[str, tuple[list[str], np.ndarray]] = field(default_factory=dict)
    candidates: dict[str, pl.DataFrame] = field(default_factory=dict)
    items_across: Literal["shared", "separate"] = "shared"
    default_split: str = "loo"
    dropped: dict[str, int] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    keep_items: bool = False
    unknown_item: str | None = None
    min_user: int = 1
    min_item: int = 1
    bad_rows: BadRows | None = None
    locate: Callable[[int, str], InputError] | None = None
