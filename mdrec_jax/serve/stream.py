"""Recommendations from new events alone: a file keeps each user's state from call to call."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int32, Int64

from mdrec_jax.data.batching.histories import Histories
from mdrec_jax.data.batching.streams import plain
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.ranking import fill, power_of_two
from mdrec_jax.evaluate.scorer import Scorer
from mdrec_jax.models.api import Model
from mdrec_jax.models.streaming.state import streamable
from mdrec_jax.models.streaming.step import Events, StreamState, stream_queries, stream_update
from mdrec_jax.parallel.mesh import DATA, by_row, replicated, rows_for
from mdrec_jax.serve.given_files import NO_NAMES
from mdrec_jax.serve.new_events import Late, find_new_events
from mdrec_jax.serve.recommend import Choice, Lists, choose
from mdrec_jax.serve.recommendations import check_output, to_frame, told, write_recommendations
from mdrec_jax.serve.state_file import UserStates, lock_state_file, read_states, write_states
from mdrec_jax.serve.users import read_histories

DAY = 86_400
USERS = 256
"""Users whose states are on the devices at once."""
BLOCK = 32
"""Most events of a user that one call on the devices reads."""


def stream_files(
    scorer: Scorer,
    dataset: Dataset,
    run: str,
    events: Path,
    out: Path,
    *,
    state: Path | None = None,
    init_from_dataset: bool = False,
    late: Late = "refuse",
    domain: str | None = None,
    k: int = 10,
    keep_seen: bool = False,
    tolerance: float | None = None,
    time_unit: str | None = None,
    columns: Mapping[str, str] = NO_NAMES,
    skip_bad_rows: bool = False,
) -> dict[str, int]:
    """Reads new events, recommends for all users named in them, and writes `out` as `recommend_files` does.

    Events that a state has read already change nothing (`deduplicate.find_overlap` says which those are), so a call may
    be made again, and files may overlap.

    Args:
        scorer: the model.
        dataset: the data set whose items are recommended.
        run: names the model's parameters: states of other ones are refused.
        events: as `read_histories` reads them; a row with an empty item names a user who has no new event.
        out: the file to write.
        state: a file of all users' states, read if it is there and written anew; no other call may change it until this
            one ends. None = every user starts afresh, and nothing is kept.
        init_from_dataset: users without a state start with their events in the data set; else they start with nothing.
        late: what is done with events that are new, and older than what was read of their users.
        domain, k, keep_seen: as of `recommend_files`.
        tolerance: as of `stream_update`.
        time_unit, columns, skip_bad_rows: of the events (`read_histories`).

    Returns:
        What was unknown, known already or left out, who was new, and who got the popularity list or a short one,
        counted by reason.

    Raises:
        InputError: files that cannot be read, events that are late, or earlier or later than any can be, states of
            another run or in use, or options that leave nothing to recommend.
        ConfigError: a model that cannot be streamed.
    """
    check_output(out, events, state)
    if state is not None and state.resolve() == events.resolve():
        raise InputError(
            "would be written over", file=events, column="--state", expected="another file than the events"
        )
    streamable(scorer.model)
    chosen = range(dataset.num_domains) if domain is None else [dataset.domain_index(domain)]
    users = read_histories(
        events, dataset, time_unit=time_unit, columns=columns, latest=_latest(dataset), skip_bad_rows=skip_bad_rows
    )
    file = None if state is None else state.resolve()
    with nullcontext() if file is None else lock_state_file(file):
        before = UserStates.none(scorer.model)
        if file is not None:
            before = read_states(file, scorer.model, run, dataset.num_items)
        user, after = before.including(users.names, scorer.model)
        new, counts = find_new_events(
            dataset, after, user, users, events, init_from_dataset=init_from_dataset, late=late
        )
        counts = Counter(users.counts | {"new users": len(after.names) - len(before.names)} | counts)
        after = new.applied(_advance_states(scorer, dataset, after, user, new.histories, events, tolerance), user)
        frames = []
        for one in chosen:
            lists = _recommend(scorer, dataset, after, user, one, Choice(k=k, keep_seen=keep_seen))
            counts.update(told(lists, dataset.manifest.domains[one], k))
            frames.append(to_frame(dataset, users, one, lists))
        # In this order: a call that breaks off between the two can be made again.
        write_recommendations(out, frames)
        if file is not None:
            write_states(file, after, run)
    return {what: number for what, number in counts.items() if number}


def _latest(dataset: Dataset) -> int:
    """No event is later than tomorrow, by this machine's clock; where those of the data set are, than the last one."""
    return max(int(time.time()) + DAY, int(plain(dataset.time).max(initial=0)))


def _advance_states(
    scorer: Scorer,
    dataset: Dataset,
    states: UserStates,
    user: Int64[np.ndarray, "P"],
    histories: Histories,
    file: Path,
    tolerance: float | None,
) -> UserStates:
    """What the model keeps, after the histories; history p is that of user `user[p]`. Those handed in are written
    over.

    Raises:
        InputError: the model reads times, and the histories have none.
    """
    config = getattr(scorer.model, "config", None)
    timed = dataset.manifest.has_time and histories.time is not None
    if dataset.manifest.has_time and not timed and len(histories.item) and getattr(config, "time_bias", False):
        raise InputError("the model reads times, and the events have none", file=file, expected="a column time")
    offsets = np.asarray(histories.offsets, np.int64)
    length = np.diff(offsets)
    by_length = np.argsort(-length, kind="stable")
    by_length = by_length[length[by_length] > 0]
    columns = [np.asarray(getattr(histories, name), np.int32) for name in ("item", "domain", "event")]
    times = np.zeros(len(columns[0]), np.int64)
    if timed:
        times = np.asarray(histories.time) - int(dataset.manifest.time_origin)
    columns.append(times.astype(np.int32))
    step = _update(scorer.model, scorer.mesh, tolerance)
    for low in range(0, len(by_length), USERS):
        some = by_length[low : low + USERS]
        now = _placed(scorer, states.state, user[some])
        size, longest, done = now.events.shape[0], int(length[some[0]]), 0
        while done < longest:
            width = min(BLOCK, power_of_two(longest - done))
            place = offsets[some, None] + done + np.arange(width)
            there = place < offsets[some + 1, None]
            block = Events(*(fill(np.where(there, x[np.where(there, place, 0)], 0), size) for x in columns))
            now = step(scorer.params, now, jax.device_put(block, by_row(scorer.mesh)))
            done += width
        for kept, new in zip(jax.tree.leaves(states.state), jax.tree.leaves(now), strict=True):
            kept[user[some]] = np.asarray(new)[: len(some)]
    return states


def _recommend(
    scorer: Scorer, dataset: Dataset, states: UserStates, user: Int64[np.ndarray, "P"], domain: int, choice: Choice
) -> Lists:
    answerable = np.flatnonzero(states.seen.lengths[user] > 0)
    light = replace(states.state, mixed_layers=(), own_layers=())
    queries = _queries(scorer.model, scorer.mesh)

    def answers() -> Any:
        for low in range(0, len(answerable), USERS):
            some = answerable[low : low + USERS]
            state = _placed(scorer, light, user[some])
            domains = jax.device_put(np.full(state.events.shape[0], domain, np.int32), by_row(scorer.mesh))
            yield some, np.asarray(queries(scorer.params, state, domains))[: len(some)]

    def seen(some: Int[np.ndarray, "B"]) -> Csr:
        return states.seen.take(user[some])

    def latest(some: Int[np.ndarray, "B"]) -> Int32[np.ndarray, "B STEPS"]:
        return states.recent[user[some]]

    return choose(scorer, dataset, domain, choice, len(user), answerable, answers(), seen, latest)


def _placed(scorer: Scorer, state: StreamState, user: Int64[np.ndarray, "P"]) -> StreamState:
    """Some users' states on the devices, with users without events behind the last."""
    size = rows_for(scorer.mesh, power_of_two(len(user)))
    return jax.device_put(jax.tree.map(lambda x: fill(x[user], size), state), by_row(scorer.mesh))


@lru_cache(maxsize=8)
def _update(model: Model, mesh: Mesh, tolerance: float | None) -> Any:
    """Compiled: (parameters, states, events) -> states; the states handed in are used up."""
    local = partial(stream_update, model, tolerance=tolerance)
    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(local, mesh=mesh, in_specs=(whole, split, split), out_specs=split, check_vma=False)
    return jax.jit(body, donate_argnums=1)


@lru_cache(maxsize=8)
def _queries(model: Model, mesh: Mesh) -> Any:
    """Compiled: (parameters, states, domains) -> what items are scored with, float32."""

    def local(params: Any, state: StreamState, domain: Int32[Any, "U"]) -> Float[Any, "U D"]:
        return stream_queries(model, params, state, domain).astype(np.float32)

    whole, split = jax.P(), jax.P(DATA)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(whole, split, split), out_specs=split, check_vma=False),
        in_shardings=(replicated(mesh), by_row(mesh), by_row(mesh)),
    )
