"""An ensemble ranks by the mean of its members' log-softmax, which is the mean of their scores."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.errors import EXIT_BAD_INPUT
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.looks_at_test import read_looks
from mdrec_jax.evaluate.protocol import parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.scorer import make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.ensemble import Ensemble, side_by_side
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from tests.command import mdrec
from tests.evaluate.test_ranking import all_scores, expected


@pytest.mark.parametrize("kind", ["sasrec", "experts"])
@pytest.mark.parametrize("members", [1, 3])
def test_ranks_are_those_of_the_mean_log_softmax_over_the_candidates(
    members: int, kind: str, small_run: RunConfig, small_world: Path
) -> None:
    dataset = open_dataset(small_world)
    encoder = RecommenderConfig(dim=16, layers=1, attention_window=24, init_scale=0.5)
    config = encoder if kind == "sasrec" else replace(encoder, experts=ExpertsConfig(per_width=1))
    model = make_model(config, dataset.spec)
    params = [model.init(jax.random.key(seed)) for seed in range(members)]
    together = make_scorer(Ensemble(model, members), side_by_side(params), small_run.batching)
    eval_set = evaluation_set(dataset, parse_protocol("uniform19x2"))
    scores = [all_scores(make_scorer(model, one, small_run.batching), eval_set) for one in params]
    found = rank_queries(together, eval_set).rank
    for number in range(2):
        rivals = np.concatenate(
            [eval_set.queries.target[:, None], eval_set.candidates(np.arange(len(eval_set)), number)], 1
        )
        theirs = [np.take_along_axis(one, rivals, axis=1) for one in scores]
        mean = np.mean([one - np.log(np.exp(one).sum(1, keepdims=True)) for one in theirs], axis=0)
        by_hand = 1 + (mean[:, 1:] > mean[:, :1]).sum(1)
        assert (found[:, number] == by_hand).mean() > 0.99, "only scores that differ in the last bit change places"
        if members > 1:
            alone = expected(eval_set, scores[0], lambda query, rows=rivals: rows[query].tolist())
            assert (found[:, number] != alone).mean() > 0.3


def test_a_table_has_the_ensemble_beside_the_mean_and_each_look_is_recorded(
    small_run: RunConfig, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, short = open_dataset(small_world), replace(small_run, train={"epochs": 0.5})
    for seed in (0, 1):
        fit(replace(short, seed=seed), dataset, RunFolder(tmp_path / f"seed-{seed}"))
    fit(replace(short, seed=2, model={"dim": 8}), dataset, RunFolder(tmp_path / "narrow"))
    runs = [tmp_path / "seed-0", tmp_path / "seed-1"]
    assert mdrec("evaluate", *runs, "--protocol", "uniform20x2", "--ensemble") == 0
    assert "2 seeds" in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation" / "test-uniform20x2-ensemble.json").read_text())
    by_model = {row["model"]: row["metrics"] for row in results["rows"] if row["domain"] == "macro"}
    one, both = by_model["sasrec"], by_model["sasrec, 2 seeds' scores"]
    assert one != both
    assert (len(results["ranks"]["sasrec"]), len(results["ranks"]["sasrec, 2 seeds' scores"])) == (2, 1)
    for path in runs:
        looks = read_looks(path)
        assert [look["what"] for look in looks] == ["ranking", "ranking by the mean of the scores"]
        assert [look["figures"]["macro"]["mrr"] for look in looks] == [one["mrr"], both["mrr"]]
    for wrong in ((runs[0],), (runs[0], tmp_path / "narrow"), (runs[0], runs[0]), (*runs, "--probes")):
        try:
            code = mdrec("evaluate", *wrong, "--ensemble")
        except SystemExit as stopped:
            code = stopped.code
        assert code == EXIT_BAD_INPUT
