"""The events of a file that the states of its users have not read."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.transitions import STEPS
from mdrec_jax.serve.deduplicate import NO_TIME, event_digests, find_overlap, following, without
from mdrec_jax.serve.state_file import UserStates, appended
from mdrec_jax.serve.users import ALREADY_KNOWN, Users, known_histories, known_items

type Late = Literal["refuse", "skip"]


@dataclass(frozen=True)
class NewEvents:
    """Of P users."""

    histories: Histories
    """What their states are to read: what the data set has of them, where they start with that, then new events."""
    digests: Csr
    """Of the same events, those of a file with times as the file has them."""
    last: Int64[np.ndarray, "P"]
    """The time of each one's last event; the least int64 where there is none."""

    def applied(self, states: UserStates, user: Int64[np.ndarray, "P"]) -> UserStates:
        """States whose model has read the new events, with what is kept beside it; user p is at place `user[p]`."""
        recent, time = states.recent.copy(), states.time.copy()
        items = Csr(np.asarray(self.histories.offsets, np.int64), np.asarray(self.histories.item))
        both = np.concatenate([items.last(STEPS), recent[user]], axis=1)
        new, place = np.minimum(items.lengths, STEPS)[:, None], np.arange(STEPS)
        recent[user] = np.take_along_axis(both, np.where(place < new, place, STEPS + place - new), axis=1)
        time[user] = self.last
        seen = appended(states.seen, user, known_items(self.histories)).unique()
        return replace(states, recent=recent, time=time, seen=seen, read=appended(states.read, user, self.digests))


def find_new_events(
    dataset: Dataset,
    states: UserStates,
    user: Int64[np.ndarray, "P"],
    users: Users,
    file: Path,
    *,
    init_from_dataset: bool,
    late: Late,
) -> tuple[NewEvents, dict[str, int]]:
    """What is to be read, and how much of the file is not, by reason.

    Args:
        states: of all users, `user[p]` being the place of the file's user p.
        init_from_dataset: users without a state start with their events in the data set.
        late: whether new events that are older than what was read are refused, or left out and counted.
        file: for errors.

    Raises:
        InputError: late events, or events without times behind events with times.
    """
    fresh = states.read.lengths[user] == 0
    base = known_histories(dataset, [name if new else None for name, new in zip(users.names, fresh, strict=True)])
    start = np.diff(base.offsets) > 0
    counts = {"users who start with their events in the data set": int(start.sum())}
    if not init_from_dataset:
        counts = {"users who start without their events in the data set (--from reads them)": int(start.sum())}
        base = without(base, np.ones(len(base.item), bool))
    last = np.where(start & init_from_dataset, _last(base), states.time[user])
    read = Csr(states.read.offsets, states.read.values).take(user)
    read = appended(read, np.arange(len(user)), event_digests(base))
    if users.histories.time is None and (timed := last[np.diff(users.histories.offsets) > 0] > NO_TIME).any():
        raise InputError(
            "events without times cannot follow events with times", file=file, column="time",
            found=f"events of {int(timed.sum()):,} users whose earlier ones had times", expected="a column time",
        )  # fmt: skip
    overlap = find_overlap(read, last, users.histories)
    counts |= {ALREADY_KNOWN: int(overlap.known.sum()), "late events left out": int(overlap.late.sum())}
    if late == "refuse":
        _refuse_late(overlap.late, users, file)
    new = without(users.histories, overlap.known | overlap.late)
    digests = appended(event_digests(base), np.arange(len(user)), event_digests(new))
    whole = following(base, new) if len(base.item) else new
    return NewEvents(whole, digests, np.maximum(last, _last(new))), counts


def _last(histories: Histories) -> Int64[np.ndarray, "P"]:
    """The time of each one's last event; the least int64 where there is none."""
    offsets = np.asarray(histories.offsets)
    if histories.time is None or not len(histories.item):
        return np.full(len(offsets) - 1, NO_TIME)
    return np.where(np.diff(offsets) > 0, np.asarray(histories.time)[np.maximum(offsets[1:], 1) - 1], NO_TIME)


def _refuse_late(late: Bool[np.ndarray, "N"], users: Users, file: Path) -> None:
    if not late.any():
        return
    owner = np.repeat(np.arange(len(users.names)), np.diff(users.histories.offsets))
    raise InputError(
        "events are older than what the state has read",
        file=file,
        column="time",
        found=f"{int(late.sum()):,} events of {len(np.unique(owner[late])):,} of {len(users.names):,} users",
        expected="events that were read already, or that follow those",
        hint="a state cannot go back: leave them out with --late skip, or start without the file of states",
    )
