"""The co-occurrence bonus: ranks and recommendations are those of the sum of both scores, written out."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig
from mdrec_jax.config import replace as with_fields
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.evaluate import cooccurrence, ranking
from mdrec_jax.evaluate.baselines.run import count_training
from mdrec_jax.evaluate.cooccurrence import Cooccurrence, CooccurrenceConfig
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from mdrec_jax.serve.recommend import Choice, recommend
from mdrec_jax.serve.users import read_users
from mdrec_jax.train.setup import Setup
from tests.evaluate.test_ranking import all_scores, expected
from tests.evaluate.worlds import two_domains

WEIGHT, LEAST = 3.0, 0.01


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("cooccurrence") / "world")


@pytest.fixture(scope="module")
def scorer(world: Dataset) -> Scorer:
    model = make_model(RecommenderConfig(dim=16, layers=1, attention_window=10, init_scale=0.5), world.spec)
    bonus = Cooccurrence(count_training(world, plain(world.role) == ROLE_TRAIN), CooccurrenceConfig(WEIGHT))
    batching = BatchingConfig(rows=4, row_length=24, max_length=10)
    return make_scorer(model, model.init(jax.random.key(0)), batching, cooccurrence=bonus)


def transitions(world: Dataset) -> np.ndarray:
    """The counts of the training log as a dense matrix, pair by pair."""
    m = np.zeros((world.num_items, world.num_items))
    offsets, item, role = (plain(x) for x in (world.sequence_offsets, world.item, world.role))
    for low, high in pairwise(offsets):
        items = [i for i, r in zip(item[low:high], role[low:high], strict=True) if r == ROLE_TRAIN]
        for a, first in enumerate(items):
            for steps, second in enumerate(items[a + 1 : a + 6], 1):
                m[first, second] += 1 / steps
    return m


def added(world: Dataset, history: np.ndarray) -> np.ndarray:
    """Of every item, after a history."""
    m, score = transitions(world), np.zeros(world.num_items)
    for back, item in enumerate(history[::-1][:5]):
        score += m[item] / (m[item].sum() + 5) / (back + 1)
    return WEIGHT * np.log(1 + score / LEAST)


def sums(scorer: Scorer, eval_set: EvaluationSet) -> np.ndarray:
    scores, queries = all_scores(scorer, eval_set), eval_set.queries
    offsets, places = queries.history_places(np.arange(len(eval_set)))
    items = plain(eval_set.dataset.item)[places]
    return scores + np.stack([added(eval_set.dataset, items[a:b]) for a, b in pairwise(offsets)])


@pytest.mark.parametrize("devices", [1, 8])
def test_full_ranks_are_those_of_the_sum(world: Dataset, scorer: Scorer, devices: int) -> None:
    eval_set = evaluation_set(world, Protocol())
    out = eval_set.seen(np.arange(len(eval_set)))

    def rivals(query: int) -> list[int]:
        gone = set(out.values[out.offsets[query] : out.offsets[query + 1]].tolist())
        return [i for i in eval_set.universe(int(eval_set.queries.domain[query])).tolist() if i not in gone]

    mesh = make_mesh(MeshConfig(data=devices))
    spread = make_scorer(scorer.model, scorer.params, scorer.batching, mesh=mesh, cooccurrence=scorer.cooccurrence)
    found = rank_queries(spread, eval_set).rank[:, 0]
    wanted = expected(eval_set, sums(scorer, eval_set), rivals)
    if devices == 1:
        np.testing.assert_array_equal(found, wanted)
    assert (found != wanted).mean() < 0.02, "only scores that differ in the last bit may change places"
    assert (found != expected(eval_set, all_scores(scorer, eval_set), rivals)).mean() > 0.3


@pytest.mark.parametrize("gathering", [0, 4], ids=["candidate by candidate", "the whole universe at once"])
def test_sampled_ranks_are_those_of_the_sum(
    world: Dataset, scorer: Scorer, gathering: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "GATHERING", gathering)
    eval_set = evaluation_set(world, parse_protocol("uniform9x2", source="fkcb"))
    found, scores = rank_queries(scorer, eval_set).rank, sums(scorer, eval_set)
    for number in range(2):
        rows = eval_set.candidates(np.arange(len(eval_set)), number).tolist()
        np.testing.assert_array_equal(found[:, number], expected(eval_set, scores, lambda query: rows[query]))  # noqa: B023


def test_recommendations_are_those_of_the_sum(world: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    names = world.users()["raw"].to_list()
    (tmp_path / "users.txt").write_text("\n".join(names))
    users = read_users(tmp_path / "users.txt", world)
    alone = recommend(replace(scorer, cooccurrence=None), world, users, 1, Choice(k=4))
    lists = recommend(scorer, world, users, 1, Choice(k=len(world.domain_items[1])))
    both = recommend(scorer, world, users, 1, Choice(k=4))
    np.testing.assert_array_equal(lists.item[:, :4], both.item)
    assert (both.item != alone.item).any()
    every = recommend(replace(scorer, cooccurrence=None), world, users, 1, Choice(k=len(world.domain_items[1])))
    offsets, item = np.asarray(users.histories.offsets), np.asarray(users.histories.item)
    for person, history in enumerate(users.history[:, 1]):
        score = dict(zip(every.item[person].tolist(), every.score[person].tolist(), strict=True))
        more = added(world, item[offsets[history] : offsets[history + 1]])
        there = lists.item[person][lists.item[person] > 0]
        assert set(there.tolist()) == set(every.item[person].tolist()) - {0}
        np.testing.assert_allclose(
            lists.score[person, : len(there)], [score[i] + more[i] for i in there.tolist()], atol=1e-5
        )
        assert (np.diff(lists.score[person, : len(there)]) <= 0).all()


def test_blocks_hold_no_more_entries_than_they_may(
    world: Dataset, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert scorer.cooccurrence is not None
    (tmp_path / "users.txt").write_text("\n".join(world.users()["raw"].to_list()))
    users = read_users(tmp_path / "users.txt", world)

    def answers() -> list[np.ndarray]:
        ranks = [
            rank_queries(scorer, evaluation_set(world, parse_protocol(name))).rank for name in ("full", "uniform9")
        ]
        return [*ranks, recommend(scorer, world, users, 1, Choice(k=4)).item]

    whole, eval_set = answers(), evaluation_set(world, Protocol())
    recent = eval_set.latest(np.arange(len(eval_set)), 5)
    entries = np.diff(scorer.cooccurrence.counts.offsets)[recent].sum(1, where=recent > 0)
    limit = int(np.median(entries)) * 3
    monkeypatch.setattr(cooccurrence, "ENTRIES", limit)
    parts = [np.arange(len(eval_set))[part] for part in scorer.cooccurrence.blocks(recent, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(len(eval_set)))
    assert all(len(part) == 1 or len(part) * entries[part].max() <= limit for part in parts)
    assert max(map(len, parts)) <= 7
    assert len(parts) > len(eval_set) / 7 + 1
    for found, wanted in zip(answers(), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_run_counts_what_it_trains_on_if_it_is_told_to(world: Dataset, scorer: Scorer) -> None:
    config = RunConfig(model=RecommenderConfig(dim=16, layers=1, attention_window=10), batching=scorer.batching)
    assert Setup.of(config, world).cooccurrence is None
    found = Setup.of(with_fields(config, cooccurrence={"weight": WEIGHT}), world).cooccurrence
    assert found is not None
    dense = np.zeros((world.num_items, world.num_items))
    for row in range(world.num_items):
        some = slice(*found.counts.offsets[row : row + 2])
        dense[row, found.counts.item[some]] = found.counts.value[some]
    np.testing.assert_allclose(dense, transitions(world), rtol=1e-12)
    assert config.hash() != with_fields(config, cooccurrence={"weight": WEIGHT}).hash()


@pytest.mark.parametrize(("name", "value"), [("weight", -1.0)])
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"cooccurrence\.{name}"):
        with_fields(RunConfig(), cooccurrence={name: value})
