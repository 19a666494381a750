"""Probes: planted codes give the figures that were planted, and the command prints, writes and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.queries import query_list, training_ends
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.probes import linear_probe
from mdrec_jax.evaluate.probes.probes import REMOVED, without_domain_embedding
from mdrec_jax.evaluate.protocol import Split, parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.scorer import codes_at, last_events
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig
from mdrec_jax.train.config import LoggingConfig, TrainConfig
from mdrec_jax.train.evaluation import evaluate_runs, probe_run
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.trained import TrainedRun, load_run
from tests.command import mdrec

RNG = np.random.default_rng(0)
USER = np.repeat(np.arange(400), 3)
LABEL = RNG.choice(3, len(USER), p=(0.6, 0.3, 0.1))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "STEPS", 600)


@pytest.mark.parametrize("hidden", [0, 32])
def test_a_code_that_holds_the_label_is_found_out_and_noise_is_not(hidden: int) -> None:
    noise = RNG.normal(size=(len(USER), 8))
    centres = 6 * RNG.normal(size=(3, 8))
    told = linear_probe.balanced_accuracy(noise + centres[LABEL], LABEL, USER, hidden=hidden)
    assert told.value > 0.98
    untold = linear_probe.balanced_accuracy(noise, LABEL, USER, hidden=hidden)
    assert untold.low < 1 / 3 < untold.high
    assert untold.high - untold.low < 0.25


def test_only_the_perceptron_sees_what_is_not_linear() -> None:
    x = RNG.normal(size=(len(USER), 4))
    label = (x[:, 0] * x[:, 1] > 0).astype(int)
    assert linear_probe.balanced_accuracy(x, label, USER).value < 0.6
    assert linear_probe.balanced_accuracy(x, label, USER, hidden=32).value > 0.85


def test_a_direction_of_small_variance_is_read_too() -> None:
    x = RNG.normal(size=(len(USER), 4)) * 100
    x[:, 3] = 1e-3 * (LABEL + 0.1 * RNG.normal(size=len(USER)))
    assert linear_probe.balanced_accuracy(x, LABEL, USER).value > 0.9


def test_users_are_dealt_out_whole() -> None:
    parts = linear_probe.split_users(USER, 3)
    members = [set(USER[rows].tolist()) for rows in (parts.teach, parts.choose, parts.judge)]
    assert [len(some) for some in members] == [200, 80, 120]
    assert len(set.union(*members)) == 400
    assert (np.sum([parts.teach, parts.choose, parts.judge], axis=0) == 1).all()
    assert (linear_probe.split_users(USER, 3).judge == parts.judge).all()
    assert (linear_probe.split_users(USER, 4).judge != parts.judge).any()


def test_r2_is_the_share_of_variance_that_was_planted() -> None:
    x = RNG.normal(size=(len(USER), 6))
    group = np.arange(len(USER)) % 2
    maps = RNG.normal(size=(2, 6, 2))
    signal = np.einsum("nd,ndk->nk", x, maps[group])
    y = signal + signal.std() * RNG.normal(size=signal.shape)
    one, apart = (linear_probe.explained(x, y, USER, g) for g in (np.zeros_like(group), group))
    assert apart.low < 0.5 < apart.high
    assert one.value < apart.value - 0.1
    nothing = linear_probe.explained(RNG.normal(size=x.shape), y, USER, group)
    assert abs(nothing.value) < 0.03


def test_a_share_is_a_ratio_of_sums() -> None:
    whole = RNG.random(len(USER))
    found = linear_probe.share_of(0.8 * whole, whole, USER)
    np.testing.assert_allclose(found, (0.8, 0.8, 0.8))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("probes") / "world"
    write_world(SyntheticConfig(users=90, items=60, domains=2, mean_length=12.0, max_length=40, seed=1), folder)
    return open_dataset(folder)


def test_each_history_is_asked_for_its_last_events_domain(world: Dataset) -> None:
    queries = query_list(world, "test")
    histories = last_events(queries)
    offsets, places = histories.history_places(np.arange(len(histories)))
    np.testing.assert_array_equal(histories.domain, np.asarray(world.domain)[places[offsets[1:] - 1]])
    ends = set(zip(queries.sequence.tolist(), queries.history_end.tolist(), strict=True))
    assert len(histories) == len(ends)


def run_config(domain_embedding: bool, *, disentangled: bool = False, **parts: Any) -> RunConfig:
    codes = DisentangleConfig(codes=True, shared_rank=4, domain_whitening=True) if disentangled else DisentangleConfig()
    model = RecommenderConfig(
        dim=8, layers=1, attention_window=24, domain_embedding=domain_embedding,
        views=ViewsConfig(in_domain=disentangled), disentangle=codes,
    )  # fmt: skip
    return replace(
        RunConfig(),
        batching={"rows": 8, "row_length": 32, "max_length": 24},
        model=model,
        train=TrainConfig(epochs=0.0, steps=3),
        logging=LoggingConfig(every=1, tensorboard=False),
        hardware={"data": 1},
        **parts,
    )


@pytest.fixture(scope="module")
def trained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    losses = {"disentangle": DisentangleLossConfig(shared_alone=0.5, adversary=0.1, mmd=0.1, sample=8)}
    fit(run_config(True, disentangled=True, objectives=losses), world, RunFolder(folder))
    return folder


def test_the_losses_are_written_down(trained: Path) -> None:
    last = json.loads(RunFolder(trained).metrics.read_text().splitlines()[-2])
    assert {"adversary", "mmd", "shared_alone"} <= last.keys()
    assert "specific_domain" not in last


def test_the_command_prints_and_writes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("evaluate", trained, "--probes", "--split", "validation") == 0
    out = capsys.readouterr().out
    for text in ("logistic", "mlp", "kept", "r2_shared", "chance 0.500", "domain"):
        assert text in out
    written = json.loads((trained / "evaluation" / "validation-probes.json").read_text())
    assert mdrec("evaluate", trained, "--probes", "--split", "validation", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == written
    (found,) = written
    assert set(found["codes"]) == {"shared", "specific", "h", REMOVED}
    assert found["codes"]["h"]["kept"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert set(found["codes"]["shared"]) == {"logistic", "mlp", "r2_shared", "r2_specific", "ndcg@10", "kept"}


def test_removing_the_domain_embedding_makes_all_domains_inputs_equal(trained: Path, world: Dataset) -> None:
    scorer = load_run(trained).scorer
    table = np.asarray(without_domain_embedding(scorer).params.dense["inputs"]["domain"])
    np.testing.assert_array_equal(table[0], table[1])
    np.testing.assert_allclose(table[0], np.asarray(scorer.params.dense["inputs"]["domain"]).mean(0), rtol=1e-6)
    histories = last_events(query_list(world, "test"))
    kept, removed = (codes_at(s, world, histories, "specific") for s in (scorer, without_domain_embedding(scorer)))
    assert np.abs(kept - removed).max() > 1e-4


def test_a_code_is_that_of_the_models_own_answer(trained: Path, world: Dataset) -> None:
    """h at the histories is the sum of the codes there: the codes come from the same places."""
    scorer, histories = load_run(trained).scorer, last_events(query_list(world, "test"))
    shared, specific, h = (codes_at(scorer, world, histories, code) for code in ("shared", "specific", "h"))
    np.testing.assert_allclose(shared + specific, h, rtol=1e-4, atol=1e-5)


def test_a_whitened_code_is_read_before_it_is_told_the_targets_domain(trained: Path, world: Dataset) -> None:
    run, histories = load_run(trained), last_events(query_list(world, "test"))
    z, told = (codes_at(run.scorer, world, histories, code) for code in ("whitened", "shared"))
    assert (z.shape[1], told.shape[1]) == (4, 8)
    found = linear_probe.balanced_accuracy(z, histories.domain, histories.user)
    assert probe_run(run).codes["shared"]["logistic"] == found
    assert found != linear_probe.balanced_accuracy(told, histories.domain, histories.user)


def others_held_out(world: Dataset, run: TrainedRun) -> TrainedRun:
    """The run on a data set in which every second user has neither a validation nor a test event."""
    role = np.asarray(world.role).copy()
    user = np.repeat(np.asarray(world.sequence_user), np.diff(world.sequence_offsets))
    role[(user % 2 == 1) & (role > 0)] = 0
    fewer = replace(world, role=role)
    return replace(run, setup=replace(run.setup, dataset=fewer))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_users_rank_does_not_hang_on_the_other_users_that_are_asked_about(
    trained: Path, world: Dataset, split: Split
) -> None:
    run = load_run(trained)
    every, few = (evaluate_runs([one], split=split)[1]["mdrec"][0] for one in (run, others_held_out(world, run)))
    even = every.user % 2 == 0
    assert 0 < even.sum() < len(even)
    np.testing.assert_array_equal(few.user, every.user[even])
    np.testing.assert_array_equal(few.rank, every.rank[even])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_evaluated_and_probed_is_what_the_checkpoint_holds(trained: Path, world: Dataset, split: Split) -> None:
    run, eval_set = load_run(trained), evaluation_set(world, parse_protocol("full", split=split))
    np.testing.assert_array_equal(
        evaluate_runs([run], split=split)[1]["mdrec"][0].rank, rank_queries(run.scorer, eval_set).rank
    )
    alone = question_metrics(rank_queries(replace(run.scorer, cooccurrence=None), eval_set, "shared"), ("ndcg@10",))
    assert probe_run(run, split=split).codes["shared"]["ndcg@10"].value == pytest.approx(alone.values.mean())
    z = codes_at(run.scorer, world, last_events(training_ends(world)), "whitened")
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    assert np.abs(codes_at(run.scorer, world, last_events(query_list(world, "test")), "whitened").mean(0)).max() > 1e-3


def test_a_model_without_codes_is_refused(world: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(run_config(False), world, RunFolder(tmp_path / "plain"))
    capsys.readouterr()
    assert mdrec("evaluate", tmp_path / "plain", "--probes") == 2
    captured = capsys.readouterr()
    assert "the model has no code 'shared'" in captured.err
    assert not captured.out
