"""The events of a file of histories: each of its rows is a user's event, an error, or counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.checks import strays, two_units
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.sources.bad_rows import BadRows
from mdrec_jax.data.sources.columns import id_value
from mdrec_jax.data.sources.formats import Format, column_names, format_of, record_at, scan
from mdrec_jax.data.sources.reading import require_file
from mdrec_jax.data.sources.times import LATEST_SECOND, time_values, unit_of
from mdrec_jax.errors import InputError
from mdrec_jax.serve.given_files import read_columns, refuse_empty, refuse_rows


@dataclass(frozen=True)
class _File:
    """What is read where: the columns by what they hold, the unit of the times, and who counts the bad rows."""

    path: Path
    kind: Format
    columns: dict[str, str]
    time_unit: str | None
    bad_rows: BadRows | None

    def without(self, frame: pl.DataFrame, bad: pl.Expr, what: str, expected: str) -> pl.DataFrame:
        """The rows that are not bad; the others are counted. Raises InputError at the first where none may be."""
        rows = frame.filter(bad)
        if rows.is_empty():
            return frame
        if self.bad_rows is None:
            refuse_rows(rows, self.path, self.kind, self.columns, what, expected, self.time_unit)
        else:
            self.bad_rows.add(self.path, f"rows without a usable {what}", len(rows))
        return frame.filter(~bad)

    def value(self, row: int, what: str) -> object:
        """What stands in a row, as it is written."""
        record = record_at(self.path, self.kind, row, skip=self.bad_rows is not None)
        return record.get(self.columns[what])


def read_events(
    path: Path,
    dataset: Dataset,
    time_unit: str | None,
    given: Mapping[str, str],
    latest: int | None,
    bad_rows: BadRows | None,
) -> pl.DataFrame:
    """user, item, domain, event, and time and fraction where there is one, as text and numbers, checked.

    Args:
        time_unit, given, latest: as of `users.read_histories`.
        bad_rows: counts the rows that cannot be used; None = the first of them is an error.

    Raises:
        InputError: as `users.read_histories`.
    """
    require_file(path, "a table of events")
    kind, manifest = format_of(path, "the events"), dataset.manifest
    names = column_names(path, kind, skip=bad_rows is not None)
    several = len(manifest.domains) > 1
    needed = {"user": True, "item": True, "domain": several, "event": len(manifest.event_types) > 1, "time": False}
    columns = read_columns(names, needed, path, dataset, given)
    lazy = scan(path, kind, list(columns.values()), bad_rows=bad_rows)
    schema = lazy.collect_schema()
    values = {what: id_value(name, schema[name], path) for what, name in columns.items() if what != "time"}
    if "time" in columns:
        time_unit = unit_of(path, kind, columns["time"], time_unit, bad_rows=bad_rows)
        values["time"], values["fraction"] = time_values(columns["time"], schema[columns["time"]], time_unit, path)
    frame = lazy.select(_row=pl.col("_row"), **values).collect()
    file = _File(path, kind, columns, time_unit, bad_rows)
    refuse_empty(len(frame), path)
    for what, known in (("domain", manifest.domains), ("event", manifest.event_types)):
        if what not in columns:
            frame = frame.with_columns(pl.lit(known[0]).alias(what))
    event = pl.col("item").is_not_null() & (pl.col("item") != "")
    frame = file.without(frame, pl.col("user").is_null() | (pl.col("user") == ""), "user", "a user's id")
    for what, known in (("domain", manifest.domains), ("event", manifest.event_types)):
        strange = event & ~pl.col(what).is_in(list(known)).fill_null(False)
        frame = file.without(frame, strange, what, "one of " + ", ".join(known))
    if "time" in columns:
        frame = file.without(frame, event & (pl.col("time").is_null() | (pl.col("time") < 0)), "time", "")
        _refuse_two_units(frame.filter(event), file)
        frame = _in_reach(frame, event, file, dataset, latest)
    refuse_empty(len(frame), path)
    return frame


def _refuse_two_units(events: pl.DataFrame, file: _File) -> None:
    time = events["time"].to_numpy()
    stray = strays(time) if len(time) else None
    if stray is not None:
        row = int(events["_row"].to_numpy()[stray][0])
        at = InputError("", file=file.path, row=row, column=file.columns["time"], found=file.value(row, "time"))
        raise two_units(at, time)


def _in_reach(frame: pl.DataFrame, event: pl.Expr, file: _File, dataset: Dataset, latest: int | None) -> pl.DataFrame:
    """The rows but those of events that are later than `latest`, or whose time a model of the data set cannot read."""
    origin, limit = int(dataset.manifest.time_origin), np.iinfo(np.int32)
    ends = (origin + int(limit.min), origin + int(limit.max)) if dataset.manifest.has_time else (0, LATEST_SECOND)
    last = ends[1] if latest is None else min(latest, ends[1])
    far = event & ~pl.col("time").is_between(ends[0], last)
    bad = frame.filter(far)
    if len(bad) and file.bad_rows is None:
        row = int(bad["_row"][0])
        raise InputError(
            "a time that no event can have",
            file=file.path,
            row=row,
            column=file.columns["time"],
            found=f"{file.value(row, 'time')} ({_date(int(bad['time'][0]))})",
            expected=f"between {_date(ends[0])} and {_date(last)}",
            hint="check the unit of the times: --time-unit",
        )
    return file.without(frame, far, "time", "")


def _date(seconds: int) -> str:
    return str(np.datetime64(seconds, "s"))
