"""Which histories codes are read at, and how they are ranked by."""

from typing import Any, cast

import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.queries import QueryList, query_list
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate import scorer as scorers
from mdrec_jax.evaluate.baselines.run import baseline_ranks
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.probes import probes
from mdrec_jax.evaluate.protocol import parse_protocol
from mdrec_jax.evaluate.scorer import last_events, make_scorer
from mdrec_jax.train.step import initial_params
from tests.evaluate.worlds import two_domains
from tests.models.plain import Plain


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_domains(tmp_path_factory.mktemp("codes") / "world")


def histories_of(some: QueryList) -> list[tuple[int, int]]:
    return list(zip(some.sequence.tolist(), some.history_end.tolist(), strict=True))


def test_of_too_many_histories_the_same_few_are_read(world: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = query_list(world, "test")
    every, few = histories_of(last_events(queries)), len(queries) // 4
    monkeypatch.setattr(scorers, "MOST_HISTORIES", few)
    chosen = histories_of(last_events(queries))
    assert len(set(chosen)) == few
    assert chosen == [one for one in every if one in set(chosen)], "in the order of the queries"
    assert chosen == histories_of(last_events(queries))
    monkeypatch.setattr(scorers, "MOST_HISTORIES", len(every))
    assert histories_of(last_events(queries)) == every


def test_codes_are_ranked_by_without_what_is_counted(world: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    eval_set, ranked = evaluation_set(world, parse_protocol("full")), []
    ranks = baseline_ranks(eval_set)["popularity"]
    monkeypatch.setattr(
        probes, "rank_queries", lambda scorer, _, code: ranked.append((code, scorer.cooccurrence)) or ranks
    )
    model, bonus = cast(Any, Plain()), cast(Any, "bonus")
    scorer = make_scorer(model, initial_params(model, 0), BatchingConfig(), cooccurrence=bonus)
    found = probes.rank_by(scorer, eval_set)
    assert ranked == [(code, None) for code in probes.CODES]
    value = question_metrics(ranks, ("ndcg@10",)).values.mean()
    assert found["h"]["ndcg@10"].value == pytest.approx(value)
    assert {one["kept"].value for one in found.values()} == {1.0}
