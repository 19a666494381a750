"""Values that a log must not hold: the first bad one, in the source's own order, becomes an error with its place."""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.rawlog import MAX_NAME_BYTES, RawLog
from mdrec_jax.errors import InputError

MAX_SPAN = (1 << 31) - 1
"""Seconds from the first event to the last: batches hold times as int32."""
EARLY, LATE = 10**8, 5 * 10**8
"""1973 and 1985: no log reaches from before the one to after the other, but in two units it does."""
BAD_RATING = "_bad_rating"
"""The Boolean column of a read frame that marks a missing, NaN or negative rating."""


def first_file(log: RawLog) -> Path | None:
    return log.files[0] if log.files else None


def error_at(log: RawLog, order: int, column: str) -> InputError:
    """The error for the bad value of `column` in the event at place `order`, in the source's words if it has any."""
    if log.locate is not None:
        return log.locate(order, column)
    return InputError(
        "missing, negative or unparsable value", file=first_file(log), row=order + 1, column=column, expected="a value"
    )


def check_values(log: RawLog, frame: pl.DataFrame) -> None:
    """Refuses missing, empty, endless and negative values, and times that a batch could not hold.

    Raises:
        InputError: at the first bad event.
    """
    order = frame["order"].fill_null(0).to_numpy()
    worst: tuple[int, str] | None = None
    for name in frame.columns:
        bad = _bad(frame[name])
        if bad is not None and bad.any():
            place = int(order[bad].min())
            if worst is None or place < worst[0]:
                worst = (place, "rating" if name == BAD_RATING else name)
    if worst is not None:
        raise error_at(log, *worst)
    if log.has_time:
        _check_span(log, frame["time"].to_numpy(), order)
        stray = strays(frame["time"].to_numpy())
        if stray is not None:
            raise two_units(error_at(log, int(order[stray].min()), "time"), frame["time"].to_numpy())


def leave_out(log: RawLog, frame: pl.DataFrame, bad_rows: BadRows) -> pl.DataFrame:
    """`frame` without the events that `check_values` would refuse, each counted once in `bad_rows`."""
    keep = np.ones(len(frame), bool)
    for name in frame.columns:
        bad = _bad(frame[name])
        if bad is not None and (count := int((bad & keep).sum())):
            reason = f"rows without a usable {'rating' if name == BAD_RATING else name}"
            bad_rows.add(first_file(log) or Path(), reason, count)
            keep &= ~bad
    return frame if keep.all() else frame.filter(pl.Series(keep))


def _bad(column: pl.Series) -> Bool[np.ndarray, " N"] | None:
    if column.name == BAD_RATING:
        return column.to_numpy()
    if column.dtype == pl.Boolean:
        return None
    missing = column.is_null().to_numpy() if column.null_count() else None
    if isinstance(column.dtype, pl.Categorical):
        names = column.dtype.categories.to_series().cast(pl.String)
        unusable = (names.eq("") | (names.str.len_bytes() > MAX_NAME_BYTES)).to_numpy()
        if not unusable.any():
            return missing
        bad = unusable[column.to_physical().fill_null(0).to_numpy()]
        return bad if missing is None else bad | missing
    if missing is None:
        return column.to_numpy() < 0
    return missing | (column.fill_null(-1) < 0).to_numpy()


def _check_span(log: RawLog, time: np.ndarray, order: np.ndarray) -> None:
    span = int(time.max()) - int(time.min())
    if span <= MAX_SPAN:
        return
    middle = float(np.median(time))  # the value that stands furthest out is the suspect
    at = error_at(log, int(order[np.argmax(np.abs(time - middle))]), "time")
    raise InputError(
        "times span more than 68 years",
        file=at.file,
        row=at.row,
        column=at.column,
        found=at.found if at.found is not None else f"{span} seconds from first to last",
        expected=f"at most {MAX_SPAN} seconds from first to last",
        hint="look at the first and the last time, and at --time-unit",
    )


def strays(time: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"] | None:
    """The times that are likely of another unit than the others: the fewer of those of 1970 to 1973 and those after,
    where some lie after 1985; None where no time does."""
    early = time < EARLY
    if not early.any() or int(time.max()) < LATE:
        return None
    return early if 2 * int(early.sum()) <= len(time) else ~early


def two_units(at: InputError, time: Int64[np.ndarray, " N"]) -> InputError:
    """The error for strays, the first of which `at` names."""
    last = str(np.datetime64(int(time.max()), "s"))[:10]
    found = f"{int((time < EARLY).sum()):,} of {len(time):,} times before 1973, others up to {last}"
    return InputError(
        "times of two units, or a number for missing times",
        file=at.file,
        row=at.row,
        column=at.column,
        found=found if at.found is None else f"{at.found}; {found}",
        expected="one unit in every row",
        hint="bring the column to one unit, and leave rows without a time out",
    )
