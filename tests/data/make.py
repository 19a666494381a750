"""Small prepared datasets for tests, made by the program's own `write_log`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, write_log
from mdrec_jax.data.sources.rawlog import RawLog

DAY = 86_400
EVENT_SCHEMA = {"user": pl.String, "item": pl.String, "domain": pl.String, "time": pl.Int64, "event": pl.String}


def make_log(events: Sequence[Sequence[object]], **fields) -> RawLog:
    """A log from rows (user, item[, domain[, time[, event]]]); without a time the row's number of days."""
    padded = [
        (
            str(row[0]),
            str(row[1]),
            row[2] if len(row) > 2 else "one",
            row[3] if len(row) > 3 else place * DAY,
            row[4] if len(row) > 4 else "event",
        )
        for place, row in enumerate(events)
    ]
    frame = pl.DataFrame(padded, schema=EVENT_SCHEMA, orient="row").with_columns(order=pl.int_range(pl.len()))
    fields = {"has_time": True, "ordered": True, "files": (), **fields}
    frame = frame if fields["has_time"] else frame.drop("time")
    for name in ("sequence", "role", "rating"):
        if name in fields:
            frame = frame.with_columns(pl.Series(name, fields.pop(name)))
    return RawLog(events=frame.lazy(), **fields)


def make_dataset(
    out: Path, events: Sequence[Sequence[object]], options: PrepareOptions | None = None, **fields
) -> Dataset:
    """The prepared dataset of such rows in the folder `out`; `fields` are those of RawLog (and sequence, role, rating:
    one value an event)."""
    return write_log(make_log(events, **fields), "rows", out, options or PrepareOptions())


def numbered(users: int, length: int, items: int, domains: Sequence[str] = ("one",)) -> list[tuple[str, str, str, int]]:
    """Rows of `users` users with `length` events each, spread over the domains, each item in one domain."""
    rows = []
    for user in range(users):
        for place in range(length):
            item = (7 * user + 3 * place + user * place) % items
            rows.append((f"u{user}", f"i{item}", domains[item % len(domains)], (user + place) * DAY))
    return rows
