"""What has a closed form is worked out anew before each look: the validated, kept and resumed states all have it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.queries import training_ends
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.evaluate.scorer import codes_at, last_events, make_scorer
from mdrec_jax.models.api import encode_batch
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import LoggingConfig, TrainConfig
from mdrec_jax.train.evaluation import evaluate_runs
from mdrec_jax.train.fit import fit
from mdrec_jax.train.loop import Interrupted
from mdrec_jax.train.recalibrate import make_recalibration
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import TrainState
from mdrec_jax.train.trained import load_run
from mdrec_jax.types import Batch, Params

ERASING = replace(
    RunConfig(),
    batching=BatchingConfig(rows=8, row_length=32, max_length=24),
    model=RecommenderConfig(
        dim=16,
        layers=1,
        attention_window=24,
        residual_dropout=0.3,
        views=ViewsConfig(in_domain=True, path_rank=2),
        disentangle=DisentangleConfig(codes=True, shared_rank=2, erase=True, domain_whitening=True),
    ),
    train=TrainConfig(epochs=1.0, evaluate_every=0.3, patience=0),
    logging=LoggingConfig(every=5, checkpoint_every=7, tensorboard=False),
    hardware=MeshConfig(1),
)


@pytest.fixture(scope="module")
def trained(small_world: Path) -> tuple[Setup, TrainState]:
    """The state behind a few steps."""
    setup = Setup.of(ERASING, open_dataset(small_world))
    state, batches = setup.initial_state(), setup.batches_from(0)
    for _ in range(5):
        state, _ = setup.train_step(state, next(batches))
    return setup, state


@pytest.fixture(scope="module")
def whole(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(ERASING, open_dataset(small_world), RunFolder(folder))
    return folder


def kernel(params: Params) -> np.ndarray:
    return np.asarray(params.dense["fusion"]["erasure"]["map"]["kernel"])


def correlation(setup: Setup, params: Params) -> float:
    """The largest, over all training targets, of what is erased with what is left."""

    @jax.jit
    def encode(batch: Batch) -> tuple[jax.Array, jax.Array]:
        codes = encode_batch(setup.model, params, batch).codes
        assert codes is not None
        return codes.unwhitened, codes.specific

    batches = [setup.batches[number] for number in range(setup.batches.batches_per_epoch())]
    found = [(encode(batch), np.asarray(batch.weight) > 0) for batch in batches]
    z, x = (np.concatenate([np.asarray(codes[n])[real] for codes, real in found]) for n in (0, 1))
    z, x = z - z.mean(0), x - x.mean(0)
    return float(np.abs(z.T @ x / len(z) / z.std(0)[:, None]).max())


def test_what_is_left_goes_with_nothing_that_was_erased(trained: tuple[Setup, TrainState]) -> None:
    setup, state = trained
    assert correlation(setup, state.params) > 1e-2
    assert correlation(setup, make_recalibration(setup)(state).params) < 1e-5


def test_the_whitened_code_has_the_same_moments_in_every_domain(trained: tuple[Setup, TrainState]) -> None:
    setup, state = trained
    histories = last_events(training_ends(setup.dataset))

    def code(state: TrainState, name: str) -> np.ndarray:
        scorer = make_scorer(setup.model, state.params, setup.config.batching, mesh=setup.mesh)
        return codes_at(scorer, setup.dataset, histories, name)

    found = code(make_recalibration(setup)(state), "whitened")
    middle = np.cov(found.T)
    for domain in np.unique(histories.domain):
        mine = found[histories.domain == domain]
        np.testing.assert_allclose(mine.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(np.cov(mine.T), middle, atol=0.1 * middle.max())
    np.testing.assert_allclose(code(state, "whitened"), code(state, "unwhitened"), rtol=1e-5, atol=1e-6)


def test_what_was_worked_out_alone_changes_and_twice_is_once(trained: tuple[Setup, TrainState]) -> None:
    setup, state = trained
    recalibrate = make_recalibration(setup)
    once = recalibrate(state)
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), state, once)
    assert changed.params.dense["fusion"]["erasure"]["map"]["kernel"]
    assert all(changed.params.statistics["fusion"]["whitening"].values())
    assert sum(jax.tree.leaves(changed)) == 4
    assert jax.tree.map(lambda a: a.sharding, once) == jax.tree.map(lambda a: a.sharding, state)
    np.testing.assert_array_equal(kernel(recalibrate(once).params), kernel(once.params))


def test_the_map_does_not_depend_on_how_the_rows_are_spread(trained: tuple[Setup, TrainState]) -> None:
    setup, state = trained
    expected = kernel(make_recalibration(setup)(state).params)
    spread = Setup.of(replace(ERASING, hardware=MeshConfig(4)), setup.dataset)
    found = make_recalibration(spread)(spread.initial_state(jax.device_get(state.params)))
    np.testing.assert_allclose(kernel(found.params), expected, atol=1e-5 * np.abs(expected).max())


def test_a_model_that_erases_nothing_stays_as_it_is(small_run: RunConfig, small_world: Path) -> None:
    setup = Setup.of(small_run, open_dataset(small_world))
    state = setup.initial_state()
    assert make_recalibration(setup)(state) is state


def test_the_state_that_is_looked_at_and_kept_is_the_refreshed_one(whole: Path) -> None:
    run = load_run(whole)
    state = run.setup.initial_state(run.params)
    np.testing.assert_array_equal(kernel(make_recalibration(run.setup)(state).params), kernel(run.params))
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    looked = next(line["ndcg@10"] for line in lines if line["kind"] == "validation" and line["step"] == run.step)
    rows = evaluate_runs([run], split="validation")[0].rows
    again = next(row.metrics["ndcg@10"] for row in rows if row.model == "mdrec" and row.domain == "all")
    assert again == pytest.approx(looked, rel=1e-6)


def test_a_run_stopped_at_a_look_and_behind_one_ends_like_one_that_never_was(
    whole: Path, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, step = open_dataset(small_world), Setup.train_step
    every = Setup.of(ERASING, dataset).plan.evaluate_every
    stops = [every, 2 * every + 2]

    def stopping(setup: Setup, state: TrainState, batch: Batch) -> Any:
        if int(state.step) + 1 in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(setup, state, batch)

    monkeypatch.setattr(Setup, "train_step", stopping)
    for resume in (False, True):
        with pytest.raises(Interrupted):
            fit(ERASING, dataset, RunFolder(tmp_path), resume=resume)
    fit(ERASING, dataset, RunFolder(tmp_path), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for a, b in zip(*(jax.tree.leaves(load_run(path).params) for path in (whole, tmp_path)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
