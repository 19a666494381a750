"""Recommendations from new events alone: a file keeps each person's state from call to call."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int32, Int64

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.histories import Histories
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.people import known_items, read_histories
from mdrec_jax.evaluate.ragged import Ragged
from mdrec_jax.evaluate.ranking import fill, power_of_two
from mdrec_jax.evaluate.recommend import Choice, Lists, choose
from mdrec_jax.evaluate.recommendations import check_ending, to_frame, write_recommendations
from mdrec_jax.evaluate.scorer import Scorer
from mdrec_jax.evaluate.states import States, read_states, write_states
from mdrec_jax.models.api import Model
from mdrec_jax.models.streaming import Events, StreamState, stream_queries, stream_update
from mdrec_jax.parallel.mesh import DATA, by_row, replicated, rows_for

PEOPLE = 256
"""People whose states are on the devices at once."""
BLOCK = 32
"""Most events of a person that one call on the devices reads."""


def stream_files(
    scorer: Scorer,
    dataset: Dataset,
    run: str,
    events: Path,
    out: Path,
    *,
    state: Path | None = None,
    domain: str | None = None,
    k: int = 10,
    keep_seen: bool = False,
    tolerance: float | None = None,
    time_unit: str | None = None,
) -> dict[str, int]:
    """Reads new events, recommends for everyone who is named in them, and writes `out` as `recommend_files` does.

    Args:
        scorer: the model.
        dataset: the data set that it was trained on.
        run: names the model's parameters: states of other ones are refused.
        events: as `read_histories` reads them; a row with an empty item asks for a person who has no new event.
        out: the file to write.
        state: a file of everyone's states, read if it is there and written anew; None = everyone starts afresh, and
            nothing is kept.
        domain, k, keep_seen: as of `recommend_files`.
        tolerance: as of `stream_update`.
        time_unit: of the events (`read_histories`).

    Returns:
        What was unknown, who was new, and who got the popularity list, counted by reason.

    Raises:
        InputError: files that cannot be read, events older than what a state has read already, states of another run,
            or options that leave nothing to recommend.
        ConfigError: a model that cannot be streamed.
    """
    check_ending(out)
    if scorer.counted is not None:
        raise ConfigError(
            "a state holds no list of a person's last items",
            column="counts.weight",
            found=scorer.counted.config.weight,
            expected="0 for streaming",
        )
    chosen = range(dataset.num_domains) if domain is None else [dataset.domain_index(domain)]
    before = States.none(scorer.model) if state is None else read_states(state, scorer.model, run)
    people = read_histories(events, dataset, time_unit=time_unit)
    person, after = before.including(people.names, scorer.model)
    _check_order(after.time[person], people.histories, events)
    after = _advanced(scorer, after, person, people.histories, int(dataset.manifest.time_origin or 0), tolerance)
    counts, frames = Counter(people.counts), []
    counts["new people"] = len(after.names) - len(before.names)
    for one in chosen:
        lists = _recommend(scorer, dataset, after, person, one, Choice(k=k, keep_seen=keep_seen))
        reasons = (reason for reason in lists.fallback if reason)
        counts.update(f"popularity lists in {dataset.manifest.domains[one]}: {reason}" for reason in reasons)
        frames.append(to_frame(dataset, people, one, lists))
    # In this order: a call that breaks off between the two can be made again.
    write_recommendations(out, frames)
    if state is not None:
        write_states(state, after, run)
    return {what: number for what, number in counts.items() if number}


def _check_order(time: Int64[np.ndarray, "P"], histories: Histories, path: Path) -> None:
    """Refuses events that are older than the last one that a state has read."""
    offsets = np.asarray(histories.offsets)
    some = np.flatnonzero(np.diff(offsets))
    if histories.time is None:
        return
    late = some[np.asarray(histories.time)[offsets[some]] < time[some]]
    if len(late):
        raise InputError(
            "events are older than what the state has read",
            file=path,
            column="time",
            found=f"events of {len(late):,} of {len(time):,} people",
            expected="events that follow the last call's",
            hint="a state cannot go back: start without the file of states, from everyone's whole history",
        )


def _advanced(
    scorer: Scorer,
    states: States,
    person: Int64[np.ndarray, "P"],
    histories: Histories,
    origin: int,
    tolerance: float | None,
) -> States:
    """The states after the histories; history p is that of person `person[p]`. Those handed in are written over.

    `origin` is the time, in seconds since the epoch, of the data set's first event.
    """
    offsets = np.asarray(histories.offsets, np.int64)
    length = np.diff(offsets)
    by_length = np.argsort(-length, kind="stable")
    by_length = by_length[length[by_length] > 0]
    columns = [np.asarray(getattr(histories, name), np.int32) for name in ("item", "domain", "event")]
    times = np.zeros(len(columns[0]), np.int64) if histories.time is None else np.asarray(histories.time) - origin
    columns.append(times.astype(np.int32))
    step = _update(scorer.model, scorer.mesh, tolerance)
    for low in range(0, len(by_length), PEOPLE):
        some = by_length[low : low + PEOPLE]
        now = _placed(scorer, states.state, person[some])
        size, longest, done = now.events.shape[0], int(length[some[0]]), 0
        while done < longest:
            width = min(BLOCK, power_of_two(longest - done))
            place = offsets[some, None] + done + np.arange(width)
            there = place < offsets[some + 1, None]
            block = Events(*(fill(np.where(there, x[np.where(there, place, 0)], 0), size) for x in columns))
            now = step(scorer.params, now, jax.device_put(block, by_row(scorer.mesh)))
            done += width
        for kept, new in zip(jax.tree.leaves(states.state), jax.tree.leaves(now), strict=True):
            kept[person[some]] = np.asarray(new)[: len(some)]
        if histories.time is not None:
            states.time[person[some]] = np.asarray(histories.time)[offsets[some + 1] - 1]
    return replace(states, seen=states.seen_with(person, known_items(histories)))


def _recommend(
    scorer: Scorer, dataset: Dataset, states: States, person: Int64[np.ndarray, "P"], domain: int, choice: Choice
) -> Lists:
    asked = np.flatnonzero(states.seen.lengths[person] > 0)
    light = replace(states.state, mixed_layers=(), own_layers=())
    ask = _queries(scorer.model, scorer.mesh)

    def answers() -> Any:
        for low in range(0, len(asked), PEOPLE):
            some = asked[low : low + PEOPLE]
            state = _placed(scorer, light, person[some])
            domains = jax.device_put(np.full(state.events.shape[0], domain, np.int32), by_row(scorer.mesh))
            yield some, np.asarray(ask(scorer.params, state, domains))[: len(some)]

    def seen(some: Int[np.ndarray, "B"]) -> Ragged:
        return states.seen.take(person[some])

    return choose(scorer, dataset, domain, choice, len(person), asked, answers(), seen)


def _placed(scorer: Scorer, state: StreamState, person: Int64[np.ndarray, "P"]) -> StreamState:
    """Some people's states on the devices, with people without events behind the last."""
    size = rows_for(scorer.mesh, power_of_two(len(person)))
    return jax.device_put(jax.tree.map(lambda x: fill(x[person], size), state), by_row(scorer.mesh))


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
