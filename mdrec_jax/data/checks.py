"""Values that a log must not hold: the first bad one, in the source's own order, becomes an error with its place."""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool

from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError

MAX_SPAN = (1 << 31) - 1
"""Seconds from the first event to the last: batches hold times as int32."""
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
    """Refuses missing, empty and negative values, and times that a batch could not hold.

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


def _bad(column: pl.Series) -> Bool[np.ndarray, " N"] | None:
    if column.name == BAD_RATING:
        return column.to_numpy()
    if column.dtype == pl.Boolean:
        return None
    missing = column.is_null().to_numpy() if column.null_count() else None
    if isinstance(column.dtype, pl.Categorical):
        names = column.dtype.categories.to_series()
        if not names.eq("").any():
            return missing
        return (column.cast(pl.String).fill_null("") == "").to_numpy()
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
