"""On a planted world there is a ceiling, far above what the baselines reach."""

from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.oracle import oracle_ranks
from mdrec_jax.evaluate.baselines.run import baseline_ranks
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.protocol import parse_protocol
from mdrec_jax.evaluate.ranks import Ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(SyntheticConfig(), tmp_path_factory.mktemp("oracle") / "world").path


def eval_set_of(folder: Path, protocol: str) -> EvaluationSet:
    from mdrec_jax.data.dataset import open_dataset

    return evaluation_set(open_dataset(folder), parse_protocol(protocol))


def ndcg(ranks: Ranks) -> float:
    return float(question_metrics(ranks, ["ndcg@10"]).values.mean())


def test_the_baselines_lie_far_below_the_oracle(folder: Path) -> None:
    queries = eval_set_of(folder, "full")
    baselines = {name: ndcg(ranks) for name, ranks in baseline_ranks(queries).items()}
    assert baselines["popularity"] < baselines["transitions"] < baselines["transitions-local"]
    assert ndcg(oracle_ranks(queries)) > 4 * max(baselines.values())


def test_knowing_the_next_intent_helps_a_little(folder: Path) -> None:
    queries = eval_set_of(folder, "full")
    better, plain = oracle_ranks(queries, knows_intent=True), oracle_ranks(queries)
    np.testing.assert_array_equal(better.query, plain.query)
    assert ndcg(plain) < ndcg(better) < 1.2 * ndcg(plain)


def test_the_oracle_ranks_few_candidates_too(folder: Path) -> None:
    queries = eval_set_of(folder, "uniform99")
    assert ndcg(oracle_ranks(queries)) > max(map(ndcg, baseline_ranks(queries).values())) + 0.2


def test_cold_items_are_within_reach_of_the_oracle_alone(folder: Path) -> None:
    queries = eval_set_of(folder, "full")
    oracle, baselines = oracle_ranks(queries), baseline_ranks(queries)
    assert (oracle.rank[oracle.cold] <= 10).mean() > 0.3
    assert max((ranks.rank[ranks.cold] <= 10).mean() for ranks in baselines.values()) < 0.05


def test_a_dataset_that_was_not_planted_has_no_oracle(folder: Path, tmp_path: Path) -> None:
    world = write_world(SyntheticConfig(users=60, items=100, max_length=50, mean_length=20), tmp_path / "world")
    (world.path / "truth" / "truth.json").unlink()
    queries = evaluation_set(world, parse_protocol("full"))
    with pytest.raises(InputError, match="no planted truth"):
        oracle_ranks(queries)
