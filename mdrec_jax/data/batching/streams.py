"""The events that may be read, one sequence behind the other: what training or a split's queries are allowed to see.

A stream is columns plus, for each sequence that matters, one slice of them. Events that must not be seen are not
masked, they are not in any slice. Where the visible events of every sequence stand side by side on disk (every
single-domain leave-one-out data set) the columns stay the memory-mapped ones; else the visible events are copied.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from mdrec_jax.errors import InputError

if TYPE_CHECKING:
    from mdrec_jax.data.dataset import Dataset

ROLE_TRAIN, ROLE_VALIDATION, ROLE_TEST, ROLE_CONTEXT = 0, 1, 2, 3

VISIBLE_ROLES: dict[str, tuple[int, ...]] = {
    "train": (ROLE_TRAIN, ROLE_CONTEXT),
    "validation": (ROLE_TRAIN, ROLE_CONTEXT),
    "test": (ROLE_TRAIN, ROLE_VALIDATION, ROLE_CONTEXT),
}
"""The roles that training, a validation query and a test query may read."""


@dataclass(frozen=True)
class EventStream:
    """Columns of N events and the slice of them that each of S sequences may read."""

    item: Int[np.ndarray, " N"]
    target: Int[np.ndarray, " N"]
    """The item where the event may be predicted, 0 elsewhere; the very array `item` where every event may."""
    domain: Int[np.ndarray, " N"]
    event: Int[np.ndarray, " N"]
    time: Int[np.ndarray, " N"]
    """Seconds since the epoch."""
    start: Int64[np.ndarray, " S"]
    length: Int64[np.ndarray, " S"]
    user: Int32[np.ndarray, " S"]
    num_domains: int
    num_events: int
    has_time: bool
    time_origin: int
    """Seconds since the epoch of what a batch calls time 0."""

    @property
    def has_context(self) -> bool:
        """Whether some events are read but never predicted."""
        return self.target is not self.item


def plain(column: np.ndarray) -> np.ndarray:
    """The column without the memmap subclass, whose every slice costs a Python call; still mapped, not read."""
    return np.asarray(column)


def visible_events(dataset: "Dataset", split: str) -> Int64[np.ndarray, " n"]:
    """Indices of the events whose role `split` may read, in the order of the columns."""
    role = plain(dataset.role)
    seen = np.zeros(128, bool)
    seen[list(VISIBLE_ROLES[split])] = True
    return np.flatnonzero(seen[role])


def make_stream(
    dataset: "Dataset",
    visible: Int64[np.ndarray, " n"],
    sequence: Int[np.ndarray, " S"],
    begin: Int64[np.ndarray, " S"],
    end: Int64[np.ndarray, " S"],
    *,
    targets: bool,
) -> EventStream:
    """The stream in which sequence `sequence[s]` may read the events `visible[begin[s]:end[s]]`.

    Args:
        targets: whether a `target` column is wanted that leaves out events read as context only.

    Raises:
        InputError: times further than 68 years from the data set's first one.
    """
    columns = {name: plain(getattr(dataset, name)) for name in ("item", "domain", "event", "time")}
    manifest = dataset.manifest
    has_time, origin = bool(manifest.has_time), int(manifest.time_origin or 0)
    if has_time:
        check_times(columns["time"], origin, dataset.path)
    role = plain(dataset.role)
    full = begin < end
    side_by_side = np.array_equal(visible[end[full] - 1] - visible[begin[full]], (end - begin)[full] - 1)
    if side_by_side:
        start = np.zeros(len(begin), np.int64)
        start[full] = visible[begin[full]]
    else:
        columns = {name: column[visible] for name, column in columns.items()}
        role, start = role[visible], begin.astype(np.int64)
    predicted: Bool[np.ndarray, " n"] | None = None
    if targets and np.isin(ROLE_CONTEXT, role):
        predicted = role == ROLE_TRAIN
    return EventStream(
        item=columns["item"],
        target=columns["item"] if predicted is None else np.where(predicted, columns["item"], 0).astype(np.int32),
        domain=columns["domain"],
        event=columns["event"],
        time=columns["time"],
        start=start,
        length=(end - begin).astype(np.int64),
        user=plain(dataset.sequence_user)[sequence].astype(np.int32),
        num_domains=len(manifest.domains),
        num_events=max(1, len(manifest.event_types)),
        has_time=has_time,
        time_origin=origin,
    )


def check_times(time: Int[np.ndarray, " N"], origin: int, file: object) -> None:
    """Refuse times that do not fit a batch's int32 seconds."""
    if not len(time):
        return
    low, high = int(time.min()) - origin, int(time.max()) - origin
    limit = np.iinfo(np.int32)
    if low < limit.min or high > limit.max:
        raise InputError(
            "times reach further than 68 years from the first event",
            file=str(file),
            column="time",
            found=f"{low} to {high} seconds after it",
            expected="seconds that fit 32 bits",
            hint="check the time unit the data set was prepared with",
        )


def train_stream(dataset: "Dataset") -> tuple[EventStream, int]:
    """What training reads: each sequence's role-0 events and the context events before the last of them.

    Validation and test events are not in it at all. A sequence whose training events give no target (a single event
    with nothing before it) is left out.

    Returns:
        The stream, and how many sequences with training events were left out.

    Raises:
        InputError: no sequence gives a target.
    """
    offsets = plain(dataset.sequence_offsets).astype(np.int64)
    visible = visible_events(dataset, "train")
    train = np.flatnonzero(plain(dataset.role) == ROLE_TRAIN)
    first, last = np.searchsorted(train, offsets[:-1]), np.searchsorted(train, offsets[1:])
    trained = np.flatnonzero(first < last)
    begin = np.searchsorted(visible, offsets[trained])
    end = np.searchsorted(visible, train[last[trained] - 1], side="right")
    kept = end - begin > 1
    if not kept.any():
        raise InputError(
            "no sequence has a training event with another event before it: there is nothing to predict",
            file=str(dataset.path),
            found=f"{len(trained)} sequences with training events, none longer than one event",
            expected="at least one sequence of two events outside validation and test",
        )
    stream = make_stream(dataset, visible, trained[kept], begin[kept], end[kept], targets=True)
    return stream, int(len(kept) - kept.sum())
