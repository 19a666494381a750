"""A model's ranks equal those of its scores written out, whatever the blocks, the batches and the devices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.queries import query_batches
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import NonFiniteError
from mdrec_jax.evaluate import ranking
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.scorer import Scorer, item_matrix, make_scorer, states
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from tests.evaluate.worlds import two_domains

BATCHING = BatchingConfig(rows=4, row_length=24, max_length=10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("ranking") / "world")


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    model = make_model(RecommenderConfig(dim=16, layers=1, attention_window=10, init_scale=0.5), world.spec)
    return make_scorer(model, model.init(jax.random.key(0)), BATCHING)


def all_scores(scorer: Scorer, eval_set: EvaluationSet) -> np.ndarray:
    """Scores of every query against every item, from the scorer's own states."""
    source = query_batches(eval_set.dataset, eval_set.queries, scorer.batching, rows=scorer.rows)
    query, state = (np.concatenate(part) for part in zip(*states(scorer, source), strict=True))
    assert sorted(query.tolist()) == list(range(len(eval_set)))
    items = np.asarray(item_matrix(scorer, np.arange(eval_set.dataset.num_items)))
    return state[np.argsort(query)].astype(np.float64) @ items.T.astype(np.float64)


def expected(eval_set: EvaluationSet, scores: np.ndarray, rivals: Callable[[int], list[int]]) -> np.ndarray:
    target = eval_set.queries.target
    return np.array(
        [
            1 + sum(scores[q, i] > scores[q, target[q]] for i in rivals(q) if i != target[q])
            for q in range(len(eval_set))
        ]
    )


@pytest.mark.parametrize("universe", ["target_domain", "all"])
@pytest.mark.parametrize("seen", ["none", "train", "history"])
def test_full_ranks_count_what_scores_higher_and_was_not_seen(
    world: Dataset, scorer: Scorer, universe: str, seen: str
) -> None:
    eval_set = evaluation_set(world, Protocol(universe=universe, seen=seen))  # pyright: ignore[reportArgumentType]
    ranks = rank_queries(scorer, eval_set)
    out = eval_set.seen(np.arange(len(eval_set)))

    def rivals(query: int) -> list[int]:
        gone = set(out.values[out.offsets[query] : out.offsets[query + 1]].tolist())
        return [i for i in eval_set.universe(int(eval_set.queries.domain[query])).tolist() if i not in gone]

    np.testing.assert_array_equal(ranks.query, np.arange(len(eval_set)))
    np.testing.assert_array_equal(ranks.rank[:, 0], expected(eval_set, all_scores(scorer, eval_set), rivals))


@pytest.mark.parametrize("gathering", [0, 4], ids=["candidate by candidate", "the whole universe at once"])
def test_sampled_ranks_count_the_candidates_alone(
    world: Dataset, scorer: Scorer, gathering: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "GATHERING", gathering)
    eval_set = evaluation_set(world, parse_protocol("uniform9x2", source="fkcb"))
    ranks, scores = rank_queries(scorer, eval_set), all_scores(scorer, eval_set)
    for number in range(2):
        rows = eval_set.candidates(np.arange(len(eval_set)), number).tolist()
        np.testing.assert_array_equal(ranks.rank[:, number], expected(eval_set, scores, lambda query: rows[query]))  # noqa: B023


def test_blocks_and_chunks_change_nothing(world: Dataset, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("full", "uniform9x1", "uniform9"):
        eval_set = evaluation_set(world, parse_protocol(name))
        whole = rank_queries(scorer, eval_set)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "CHUNK", 5)
            patch.setattr(ranking, "BLOCK", 8)
            patch.setattr(ranking, "WIDTHS", (2, 4))
            np.testing.assert_array_equal(rank_queries(scorer, eval_set).rank, whole.rank)


def test_batches_and_devices_change_no_rank(world: Dataset, scorer: Scorer) -> None:
    eval_set = evaluation_set(world, Protocol())
    one = rank_queries(scorer, eval_set).rank
    other = replace(BATCHING, rows=3, row_length=40)
    many = make_scorer(scorer.model, scorer.params, other, mesh=make_mesh(MeshConfig(data=8)))
    changed = rank_queries(many, eval_set).rank != one
    assert changed.mean() < 0.02, "only scores that differ in the last bit may change places"


def test_ranks_know_user_domain_history_and_warmth(world: Dataset, scorer: Scorer) -> None:
    eval_set = evaluation_set(world, Protocol())
    ranks = rank_queries(scorer, eval_set)
    np.testing.assert_array_equal(ranks.user, eval_set.queries.user)
    np.testing.assert_array_equal(ranks.domain, eval_set.queries.domain)
    np.testing.assert_array_equal(ranks.history_length, eval_set.queries.history_length)


def test_part_of_the_queries_gets_the_ranks_of_the_whole(world: Dataset, scorer: Scorer) -> None:
    whole, part = (rank_queries(scorer, evaluation_set(world, Protocol(), at_most=n)) for n in (0, 13))
    np.testing.assert_array_equal(part.rank, whole.rank[part.query])


def test_equal_scores_tie(world: Dataset, scorer: Scorer) -> None:
    """With every item alike, a target stands in the middle of those that are left."""
    params = replace(scorer.params, tables=jax.tree.map(jnp.zeros_like, scorer.params.tables))
    eval_set = evaluation_set(world, Protocol())
    ranks = rank_queries(replace(scorer, params=params), eval_set).rank[:, 0]
    out = eval_set.seen(np.arange(len(eval_set)))
    own = [eval_set.universe(int(domain)) for domain in eval_set.queries.domain]
    gone = [np.isin(items, out.values[out.offsets[q] : out.offsets[q + 1]]).sum() for q, items in enumerate(own)]
    left = np.array([len(items) for items in own]) - gone
    np.testing.assert_allclose(ranks, 1 + (left - 1) / 2)


def test_a_scorer_of_constants_hits_nothing_where_chance_would(world: Dataset, scorer: Scorer) -> None:
    """Ties are ranked in their middle, which is not the mean of a metric over the orders of the ties."""
    params = replace(scorer.params, tables=jax.tree.map(jnp.zeros_like, scorer.params.tables))
    ranks = rank_queries(
        replace(scorer, params=params), evaluation_set(world, parse_protocol("uniform19x3", source="fkcb"))
    )
    np.testing.assert_array_equal(ranks.rank, 10.5)
    assert question_metrics(ranks, ["hr@10"]).values.max() == 0


def test_a_model_of_nans_is_not_ranked(world: Dataset, scorer: Scorer) -> None:
    params = replace(scorer.params, tables=jax.tree.map(lambda x: x * jnp.nan, scorer.params.tables))
    for name in ("full", "uniform9"):
        with pytest.raises(NonFiniteError, match="has diverged"):
            rank_queries(replace(scorer, params=params), evaluation_set(world, parse_protocol(name)))


@dataclass(frozen=True)
class _Told:
    """A model that says it reads the query's time."""

    inner: Any

    @property
    def config(self) -> Any:
        return type("Config", (), {"query_time_visible": True})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_protocol_says_whether_the_model_sees_the_querys_time(world: Dataset, scorer: Scorer) -> None:
    told = replace(scorer, model=_Told(scorer.model))
    assert told.sees_query_time
    assert not scorer.sees_query_time
    with pytest.raises(ValueError, match="query_time_visible"):
        rank_queries(told, evaluation_set(world, Protocol()))
    seen = rank_queries(told, evaluation_set(world, Protocol(query_time_visible=True)))
    np.testing.assert_array_equal(seen.rank, rank_queries(scorer, evaluation_set(world, Protocol())).rank)


def test_one_long_history_does_not_fill_up_those_of_everybody(
    world: Dataset, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    eval_set = evaluation_set(world, Protocol())
    before = rank_queries(scorer, eval_set)
    held, widened = [], ranking.widened
    monkeypatch.setattr(ranking, "LEFT_OUT", 64)
    monkeypatch.setattr(ranking, "widened", lambda lists: held.append((len(lists), lists.lengths)) or widened(lists))
    np.testing.assert_array_equal(rank_queries(scorer, eval_set).rank, before.rank)
    assert sum(rows for rows, _ in held) == len(eval_set)
    assert all(rows == 1 or rows * lengths.max(initial=0) <= 64 for rows, lengths in held)


def test_lists_are_cut_where_a_matrix_of_them_would_be_too_large() -> None:
    lengths = np.sort(np.r_[np.full(5000, 9), 1000, 60_000, 3_000_000])
    parts = list(ranking.short_enough([slice(0, 4096), slice(4096, 8192)], lengths))
    assert np.concatenate([np.arange(part.start, part.stop) for part in parts]).tolist() == list(range(len(lengths)))
    for part in parts:
        size = part.stop - part.start
        assert size == 1 or size * lengths[part].max() <= ranking.LEFT_OUT
    assert parts[0] == slice(0, 4096)
    assert len(parts) <= 5
