"""The ranks that a model gives to the targets of a protocol: exact, in blocks, never users x items at once.

Where candidates are drawn, a query's scores are worked out for them alone; where the draws together are many, once for
the whole universe, in which each draw then looks them up: 30 draws cost little more than one.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64
from mdrec_kernels.linear_xent import target_rank

from mdrec_jax.data.batching.queries import query_batches
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.evaluate.baselines.transitions import NOTHING_REACHED, STEPS
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import Ranks, concatenate, rank_from_counts
from mdrec_jax.evaluate.scorer import STATE, Scorer, Universe, competing, place_items, states
from mdrec_jax.parallel.mesh import DATA, by_row, replicated, rows_for

CHUNK = 1 << 17
"""Queries whose states are held in memory before they are ranked."""
BLOCK = 2048
"""Queries of one call on the devices."""
LEFT_OUT = 1 << 21
"""Numbers of left-out items that a block may hold, those that fill its shorter lists up included."""
GATHERED = 32
"""Queries whose candidates' vectors are gathered at once."""
GATHERING = 4
"""What a candidate's score costs when its vector is gathered, in scores of a whole universe."""
WIDTHS = (16, 64, 256, 1024)
"""Numbers of left-out items that a block is filled up to: few, since each is compiled once."""


def rank_queries(scorer: Scorer, eval_set: EvaluationSet, code: str = STATE) -> Ranks:
    """The rank of every query's target.

    Args:
        code: what is scored: the model's state, or one of its codes by itself.

    Raises:
        InputError: a model without that code.
        ValueError: a protocol that does not say whether the model sees the query's time.
    """
    if scorer.sees_query_time != eval_set.protocol.query_time_visible:
        raise ValueError("the protocol's query_time_visible must be the scorer's sees_query_time")
    source = query_batches(
        eval_set.dataset, eval_set.queries, scorer.batching, rows=scorer.rows, query_time=scorer.sees_query_time
    )
    parts = [
        part
        for some, state in _chunks(scorer, source, code)
        for domain in np.unique(eval_set.queries.domain[some]).tolist()
        for part in _rank_domain(scorer, eval_set, domain, some, state)
    ]
    return concatenate(parts)


def _chunks(
    scorer: Scorer, source: Any, code: str
) -> Iterator[tuple[Int64[np.ndarray, "Q"], Float[np.ndarray, "Q D"]]]:
    """Many queries and their states at a time."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for one in states(scorer, source, code):
        held.append(one)
        if sum(len(query) for query, _ in held) >= CHUNK:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([query for query, _ in held]), np.concatenate([state for _, state in held])


def _rank_domain(
    scorer: Scorer, eval_set: EvaluationSet, domain: int, some: Int64[np.ndarray, "Q"], state: Float[np.ndarray, "Q D"]
) -> Iterator[Ranks]:
    """Ranks of the queries of one domain, short histories first: blocks of like length waste little."""
    mine = np.flatnonzero(eval_set.queries.domain[some] == domain)
    mine = mine[np.argsort(eval_set.queries.history_length[some[mine]], kind="stable")]
    num_items = eval_set.dataset.num_items
    # A file of candidates may list any item.
    items = np.arange(FIRST_ITEM, num_items) if eval_set.fixed is not None else eval_set.universe(domain)
    universe = place_items(scorer, items, num_items, domains=eval_set.dataset.num_domains)
    size = rows_for(scorer.mesh, min(BLOCK, power_of_two(len(eval_set))))
    rank = _rank_full
    if eval_set.protocol.sampled:
        rank = _rank_draws if _many_draws(eval_set.protocol, len(items)) else _rank_among
    if rank is _rank_draws:
        size = rows_for(scorer.mesh, max(GATHERED, size // power_of_two(eval_set.protocol.draws)))
    listed = not eval_set.protocol.sampled and eval_set.protocol.seen != "none"
    lengths = eval_set.queries.history_length[some[mine]] * listed
    for part in short_enough(_blocks(scorer, eval_set, some[mine], size), lengths):
        at = mine[part]
        whole = scorer.cooccurrence is None and size * lengths[part].max(initial=0) <= LEFT_OUT
        rows = size if whole else rows_for(scorer.mesh, power_of_two(len(at)))
        yield eval_set.ranks(some[at], rank(scorer, eval_set, universe, some[at], state[at], rows))


def _blocks(scorer: Scorer, eval_set: EvaluationSet, queries: Int64[np.ndarray, "Q"], size: int) -> Iterator[slice]:
    if scorer.cooccurrence is None:
        return (slice(low, low + size) for low in range(0, len(queries), size))
    return scorer.cooccurrence.blocks(eval_set.latest(queries, STEPS), size)


def power_of_two(number: int) -> int:
    """The next one, from `number` on: few sizes, few programs."""
    return 1 << max(0, number - 1).bit_length()


def _rank_full(
    scorer: Scorer, eval_set: EvaluationSet, universe: Universe, block: Any, x: Any, size: int
) -> np.ndarray:
    left_out = widened(universe.places(eval_set.seen(block)))
    values = (x, universe.place[eval_set.queries.target[block]], left_out, *_bonus(scorer, eval_set, universe, block))
    args = jax.device_put(tuple(fill(value, size) for value in values), by_row(scorer.mesh))
    counts = _compiled_full_rank(scorer.mesh)(universe.vectors, universe.count, *args)
    return _ranks(eval_set, counts, len(block))[:, None]


def _bonus(
    scorer: Scorer, eval_set: EvaluationSet, universe: Universe, block: Any
) -> tuple[Int32[np.ndarray, "B W"], Float32[np.ndarray, "B W"]]:
    recent = None if scorer.cooccurrence is None else eval_set.latest(block, STEPS)
    return sparse_bonus(scorer, universe, recent, len(block))


def sparse_bonus(
    scorer: Scorer, universe: Universe, recent: Int32[np.ndarray, "B K"] | None, queries: int
) -> tuple[Int32[np.ndarray, "B W"], Float32[np.ndarray, "B W"]]:
    """The places of the items with a co-occurrence bonus, and the bonus; W = 0 for a scorer without one.

    Args:
        recent: the queries' last items, the latest first.
    """
    if scorer.cooccurrence is None or recent is None:
        return np.zeros((queries, 0), np.int32), np.zeros((queries, 0), np.float32)
    lists, values = scorer.cooccurrence.lists(scorer.cooccurrence.bonus(recent), universe.place, queries)
    return widened(lists), lists.beside(values, _width(lists))


def _many_draws(protocol: Protocol, items: int) -> bool:
    """Whether it is cheaper to score a whole universe once than each draw's candidates."""
    return protocol.draws > 1 and protocol.draws * protocol.negatives * GATHERING > items


def _rank_draws(
    scorer: Scorer, eval_set: EvaluationSet, universe: Universe, block: Any, x: Any, size: int
) -> np.ndarray:
    draws = range(eval_set.protocol.draws)
    drawn = np.stack([universe.place[eval_set.candidates(block, number)] for number in draws], axis=1)
    values = (x, universe.place[eval_set.queries.target[block]], drawn, *_bonus(scorer, eval_set, universe, block))
    args = jax.device_put(tuple(fill(value, size) for value in values), by_row(scorer.mesh))
    return _ranks(eval_set, _draw_ranks(scorer.mesh)(universe.vectors, universe.count, *args), len(block))


def _rank_among(
    scorer: Scorer, eval_set: EvaluationSet, universe: Universe, block: Any, x: Any, size: int
) -> np.ndarray:
    target, columns, cooccurrence = eval_set.queries.target[block][:, None], [], scorer.cooccurrence
    bonus = NOTHING_REACHED if cooccurrence is None else cooccurrence.bonus(eval_set.latest(block, STEPS))
    for number in range(eval_set.protocol.draws):
        items = np.concatenate([target, eval_set.candidates(block, number)], axis=1)
        more = np.zeros((len(block), 0), np.float32) if cooccurrence is None else cooccurrence.at(bonus, items)
        values = (x, universe.place[items], more)
        args = jax.device_put(tuple(fill(value, size) for value in values), by_row(scorer.mesh))
        counts = _sampled_rank(scorer.mesh)(universe.vectors, universe.count, *args)
        columns.append(_ranks(eval_set, counts, len(block)))
    return np.stack(columns, axis=1)


def _ranks(eval_set: EvaluationSet, counts: tuple[Array, Array], number: int) -> np.ndarray:
    higher, ties = (np.asarray(count)[:number].astype(np.int64) for count in counts)
    return rank_from_counts(higher, ties, eval_set.protocol.ties)


def widened(lists: Csr) -> Int32[np.ndarray, "B W"]:
    return lists.padded(_width(lists))


def _width(lists: Csr) -> int:
    longest = int(lists.lengths.max(initial=0))
    return next((width for width in WIDTHS if width >= longest), power_of_two(longest))


def short_enough(parts: Iterable[slice], lengths: Int64[np.ndarray, "Q"]) -> Iterator[slice]:
    """The parts, cut further where their longest list would make a matrix of more than `LEFT_OUT` numbers.

    Args:
        lengths: of the queries' lists, ascending within each part: the long ones come to stand by themselves.
    """
    for part in parts:
        low, stop = part.start, min(part.stop, len(lengths))  # a last part may reach beyond the queries
        while low < stop:
            wide = np.maximum.accumulate(lengths[low:stop])
            rows = int(np.searchsorted(wide * np.arange(1, len(wide) + 1), LEFT_OUT, side="right"))
            high = min(stop, low + max(1, rows))
            yield slice(low, high)
            low = high


def fill(value: np.ndarray, size: int) -> np.ndarray:
    """Zeros after the last row, up to `size` rows."""
    missing = size - len(value)
    return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) if missing else value


@lru_cache(maxsize=8)
def _compiled_full_rank(mesh: Mesh) -> Any:
    """Compiled: (vectors, how many compete, states, targets, left out, places, bonus) -> (higher, ties)."""

    def one(vectors: Array, competes: Array, query: tuple[Array, ...]) -> tuple[Array, Array]:
        x, target, left_out, place, bonus = query
        scores = add_bonus(vectors, x, place, bonus)
        return _above(scores[target], scores, competes.at[left_out].set(False).at[target].set(False))

    def local(vectors: Array, count: Array, *queries: Array) -> tuple[Array, Array]:
        x, target, left_out, place, _ = queries
        if not place.shape[1]:
            return target_rank(x, vectors, target, allowed=competing(vectors, count), exclude=left_out)[:2]
        competes = competing(vectors, count)[0]
        return jax.lax.map(lambda query: one(vectors, competes, query), queries, batch_size=GATHERED)

    return split_queries(mesh, local, 5)


def add_bonus(
    vectors: Float[Array, "W D"], x: Float[Array, " D"], place: Int32[Array, " E"], bonus: Float[Array, " E"]
) -> Float[Array, " W"]:
    """The scores of all rows for one query. Row 0, where lists are filled up, never competes."""
    return jnp.matmul(vectors, x, precision=jax.lax.Precision.HIGHEST).at[place].add(bonus)


def _above(own: Float[Array, ""], scores: Float[Array, " W"], counts: Bool[Array, " W"]) -> tuple[Array, Array]:
    # Written so that a score that is not a number never makes a target look good.
    higher = jnp.sum(counts & ~(scores <= own), dtype=jnp.int32)
    return higher, jnp.sum(counts & (scores == own), dtype=jnp.int32)


@lru_cache(maxsize=8)
def _sampled_rank(mesh: Mesh) -> Any:
    """Compiled: (vectors, how many compete, states, [target, candidates], what is added to each, or nothing at all)
    -> (higher, ties) among the candidates."""

    def one(vectors: Array, x: Array, places: Array, bonus: Array) -> tuple[Array, Array]:
        scores = jnp.matmul(vectors[places], x, precision=jax.lax.Precision.HIGHEST)
        scores = scores + bonus if len(bonus) else scores
        return _above(scores[0], scores[1:], (places[1:] > 0) & (places[1:] != places[0]))

    def local(vectors: Array, count: Array, x: Array, places: Array, bonus: Array) -> tuple[Array, Array]:
        del count
        return jax.lax.map(lambda query: one(vectors, *query), (x, places, bonus), batch_size=GATHERED)

    return split_queries(mesh, local, 3)


@lru_cache(maxsize=8)
def _draw_ranks(mesh: Mesh) -> Any:
    """Compiled: (vectors, how many compete, states, targets, candidates by draw, places, what is bonus) -> (higher,
    ties) [B, draws]."""

    def one(vectors: Array, query: tuple[Array, ...]) -> tuple[Array, Array]:
        x, target, drawn, place, bonus = query
        scores = add_bonus(vectors, x, place, bonus)
        counts = (drawn > 0) & (drawn != target)
        return jax.vmap(lambda theirs, there: _above(scores[target], theirs, there))(scores[drawn], counts)

    def local(vectors: Array, count: Array, *queries: Array) -> tuple[Array, Array]:
        del count
        return jax.lax.map(lambda query: one(vectors, query), queries, batch_size=GATHERED)

    return split_queries(mesh, local, 5)


def split_queries(mesh: Mesh, local: Any, arrays: int) -> Any:
    """Compiled: (vectors, how many compete, so many arrays with a row a query) -> two such arrays, on every device its
    queries."""
    whole, split = jax.P(), jax.P(DATA)
    specs = (whole, whole, *[split] * arrays)
    body = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(split, split), check_vma=False)
    return jax.jit(body, in_shardings=(*[replicated(mesh)] * 2, *[by_row(mesh)] * arrays))
