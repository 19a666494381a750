"""The k best items for users; popularity where the model has nothing to go by."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, Int64
from mdrec_kernels.linear_xent import top_k

from mdrec_jax.data.batching.histories import QueryBatches, history_batches
from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.transitions import STEPS
from mdrec_jax.evaluate.evaluation_set import item_counts
from mdrec_jax.evaluate.ranking import (
    GATHERED,
    LEFT_OUT,
    add_bonus,
    fill,
    power_of_two,
    short_enough,
    sparse_bonus,
    split_queries,
    widened,
)
from mdrec_jax.evaluate.scorer import Scorer, Universe, competing, place_items, states
from mdrec_jax.parallel.mesh import by_row, rows_for
from mdrec_jax.serve.users import Users, known_items

BLOCK = 1024
"""Users of one call on the devices."""

NO_HISTORY = "no known item in the history"
NOTHING_LEFT = "nothing left to recommend"
"""Why a user got the popularity list."""
NOTHING_ALLOWED = "nothing that may be recommended"
"""Why a user's list is empty."""


@dataclass(frozen=True)
class Choice:
    """What may be recommended.

    Args:
        k: items a user and domain, at least 1.
        allow: only these items; None = all of the domain.
        deny: never these.
        keep_seen: also what the user had already.
        allow_each, deny_each: the same for each of P users; a user with an empty list in `allow_each` gets nothing.
    """

    k: int = 10
    allow: Int32[np.ndarray, "n"] | None = None
    deny: Int32[np.ndarray, "n"] = field(default_factory=lambda: np.zeros(0, np.int32))
    keep_seen: bool = False
    allow_each: Csr | None = None
    deny_each: Csr | None = None

    def universe(self, items: Int32[np.ndarray, "U"]) -> Int32[np.ndarray, "U"]:
        """The items of a domain that may be recommended.

        Raises:
            InputError: none, or k is out of range.
        """
        if self.k < 1:
            raise InputError("option out of range", column="--k", found=self.k, expected="at least 1")
        left = items if self.allow is None else np.intersect1d(items, self.allow)
        left = np.setdiff1d(left, self.deny)
        if not len(left):
            raise InputError("the lists leave no item to recommend", expected="at least one item of the domain")
        return left.astype(np.int32)


@dataclass(frozen=True)
class Lists:
    """K items for each of P users in one domain, best first; id 0 behind the end of a shorter list."""

    item: Int32[np.ndarray, "P K"]
    score: Float[np.ndarray, "P K"]
    """The model's, or the training count where `fallback` is set."""
    fallback: list[str]
    """Why the user got the popularity list, or nothing; empty where the model chose."""
    seen: int
    """Items that were left out because the user had them, over all users whom the model scored."""


def recommend(scorer: Scorer, dataset: Dataset, users: Users, domain: int, choice: Choice) -> Lists:
    """The best items of one domain.

    Raises:
        InputError: nothing may be recommended, or the model needs times and the histories have none.
    """
    history = users.history[:, domain]
    known = known_items(users.histories)
    answerable = np.flatnonzero((history >= 0) & (known.lengths[history] > 0)) if len(known) else np.zeros(0, np.int64)

    def answers() -> Iterator[tuple[Int64[np.ndarray, "B"], Float[np.ndarray, "B D"]]]:
        for some, state in states(scorer, _source(scorer, dataset, users, history[answerable], domain)):
            yield answerable[some], state

    every = Csr(np.asarray(users.histories.offsets, np.int64), np.asarray(users.histories.item))
    return choose(
        scorer,
        dataset,
        domain,
        choice,
        len(history),
        answerable,
        answers(),
        lambda some: known.take(history[some]),
        lambda some: every.take(history[some]).last(STEPS),
    )


def choose(
    scorer: Scorer,
    dataset: Dataset,
    domain: int,
    choice: Choice,
    users: int,
    answerable: Int64[np.ndarray, "A"],
    answers: Iterable[tuple[Int64[np.ndarray, "B"], Float[np.ndarray, "B D"]]],
    seen: Callable[[Int64[np.ndarray, "B"]], Csr],
    latest: Callable[[Int64[np.ndarray, "B"]], Int32[np.ndarray, "B K"]] | None = None,
) -> Lists:
    """The best items of one domain for users whose states are known; popularity for the others.

    Args:
        users: P, how many there are.
        answerable: those whom the model can say something about.
        answers: (some of `answerable`, what their items are scored with), each once.
        seen: the items that some users had.
        latest: their last items, the latest first (0 = none): needed for the co-occurrence bonus.

    Raises:
        InputError: nothing may be recommended.
        ValueError: a scorer with a co-occurrence bonus, and no `latest`.
    """
    if scorer.cooccurrence is not None and latest is None:
        raise ValueError("the co-occurrence bonus needs the last items")
    universe = choice.universe(plain(dataset.domain_items[domain]))
    k = min(choice.k, len(universe))
    item, score, had = np.zeros((users, k), np.int32), np.zeros((users, k), np.float32), 0
    if len(answerable):
        placed = place_items(scorer, universe, dataset.num_items, domains=dataset.num_domains)
        for some, state in answers:
            seen_places = None if choice.keep_seen else placed.places(seen(some))
            had += 0 if seen_places is None else len(seen_places.values)
            denied = None if choice.deny_each is None else placed.places(choice.deny_each.take(some))
            allowed = None if choice.allow_each is None else placed.places(choice.allow_each.take(some))
            recent = None if latest is None else latest(some)
            left_out = _together(len(some), seen_places, denied)
            for part, ids, values in _best(scorer, placed, state, left_out, allowed, recent, k):
                item[some[part]], score[some[part]] = ids, values
    fallback = [NO_HISTORY] * users
    for user in answerable.tolist():
        fallback[user] = "" if item[user, 0] else NOTHING_LEFT
    _fill_with_popularity(dataset, domain, universe, choice, item, score, fallback)
    return Lists(item, score, fallback, had)


def _together(users: int, *lists: Csr | None) -> Csr:
    """Each user's lists one behind the other."""
    there = [one for one in lists if one is not None]
    owner = np.concatenate([np.zeros(0, np.int64), *(one.owner for one in there)])
    values = np.concatenate([np.zeros(0, np.int32), *(one.values for one in there)])
    order = np.argsort(owner, kind="stable")
    return Csr(from_lengths(np.bincount(owner, minlength=users)), values[order])


def _source(scorer: Scorer, dataset: Dataset, users: Users, history: Any, domain: int) -> QueryBatches:
    """The histories as batches. The query's own time, where a model reads it, is that of the last event."""
    manifest, histories = dataset.manifest, users.histories
    config = getattr(scorer.model, "config", None)
    if manifest.has_time and histories.time is None:
        if getattr(config, "time_bias", False):
            raise InputError("the model reads times, and the histories have none", expected="a column time")
        nothing = np.full(len(histories.item), manifest.time_origin, np.int64)
        histories = type(histories)(histories.offsets, histories.item, histories.domain, histories.event, nothing)
    time = None
    if scorer.sees_query_time and histories.time is not None:
        time = np.asarray(histories.time)[np.asarray(histories.offsets)[history + 1] - 1]
    domains = np.full(len(history), domain, np.int32)
    return history_batches(
        histories,
        history,
        domains,
        scorer.batching,
        dataset.spec,
        rows=scorer.rows,
        time=time,
        time_origin=manifest.time_origin,
    )


def _best(
    scorer: Scorer,
    universe: Universe,
    state: Any,
    left_out: Csr,
    allowed: Csr | None,
    recent: Int32[np.ndarray, "B K"] | None,
    k: int,
) -> Iterator[tuple[Int64[np.ndarray, "B"], Int32[np.ndarray, "B K"], Float[np.ndarray, "B K"]]]:
    """(which users, their items, scores), block by block; `left_out` and `allowed` are places in the universe."""
    size, cooccurrence = rows_for(scorer.mesh, BLOCK), scorer.cooccurrence
    lengths = left_out.lengths if allowed is None else np.maximum(left_out.lengths, allowed.lengths)
    order = np.argsort(lengths, kind="stable")  # few long lists must not fill all others up
    parts: Iterable[slice] = (slice(low, min(low + size, len(state))) for low in range(0, len(state), size))
    if cooccurrence is not None and recent is not None:
        parts = cooccurrence.blocks(recent[order], size)
    for block in short_enough(parts, lengths[order]):
        part = order[block]
        number = len(part)
        whole = cooccurrence is None and size * lengths[part].max(initial=0) <= LEFT_OUT
        rows = size if whole else rows_for(scorer.mesh, power_of_two(number))
        only = np.zeros((number, 0), np.int32) if allowed is None else widened(allowed.take(part))
        bonus = sparse_bonus(scorer, universe, None if recent is None else recent[part], number)
        values = (state[part], widened(left_out.take(part)), only, *bonus)
        args = jax.device_put(tuple(fill(value, rows) for value in values), by_row(scorer.mesh))
        top = _top(scorer.mesh, k, allowed is not None)
        scores, place = top(universe.vectors, universe.count, *args)
        yield part, universe.ids[np.asarray(place)[:number]], np.asarray(scores)[:number]


@lru_cache(maxsize=32)
def _top(mesh: Mesh, k: int, limited: bool) -> Any:
    """Compiled: (vectors, how many compete, states, left out, allowed, places, bonus) -> (scores, rows).

    Args:
        limited: nothing but what is allowed competes; else what is allowed is not looked at.
    """

    def one(vectors: Array, competes: Array, query: tuple[Array, ...]) -> tuple[Array, Array]:
        x, left_out, only, place, bonus = query
        scores = add_bonus(vectors, x, place, bonus)
        mine = competes & jnp.zeros_like(competes).at[only].set(True) if limited else competes
        mine = mine.at[left_out].set(False)
        best, rows = jax.lax.top_k(jnp.where(mine, scores, -jnp.inf), k)
        return best, jnp.where(mine[rows], rows, 0)

    def local(vectors: Array, count: Array, *queries: Array) -> tuple[Array, Array]:
        x, left_out, _, place, _ = queries
        if not limited and not place.shape[1]:
            return top_k(x, vectors, k, allowed=competing(vectors, count), exclude=left_out)
        competes = competing(vectors, count)[0]
        return jax.lax.map(lambda query: one(vectors, competes, query), queries, batch_size=GATHERED)

    return split_queries(mesh, local, 5)


def _fill_with_popularity(
    dataset: Dataset,
    domain: int,
    universe: Int32[np.ndarray, "U"],
    choice: Choice,
    item: Int32[np.ndarray, "P K"],
    score: Float[np.ndarray, "P K"],
    fallback: list[str],
) -> None:
    """Fills the lists of those with a reason in `fallback` with the most popular items that they may be recommended,
    and says where that is none."""
    empty = np.flatnonzero([reason != "" for reason in fallback])
    mine = (plain(dataset.role) == ROLE_TRAIN) & (plain(dataset.domain) == domain)
    counts = item_counts(dataset, mine)[universe]
    best = np.lexsort((universe, -counts))
    k = item.shape[1]
    item[empty], score[empty] = universe[best[:k]], counts[best[:k]]
    for user in empty.tolist() if choice.allow_each is not None or choice.deny_each is not None else ():
        may = np.ones(len(universe), bool)
        for lists, wanted in ((choice.allow_each, True), (choice.deny_each, False)):
            if lists is not None:
                listed = lists.values[lists.offsets[user] : lists.offsets[user + 1]]
                may &= np.isin(universe, listed) == wanted
        left = best[may[best]][:k]
        item[user], score[user] = 0, 0
        item[user, : len(left)], score[user, : len(left)] = universe[left], counts[left]
        fallback[user] = fallback[user] if len(left) else NOTHING_ALLOWED
