"""Training a run: from a configuration and a prepared dataset to checkpoints in a run folder."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.make_results import mean_metrics
from mdrec_jax.evaluate.metrics import parse_metric
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.files import read_object
from mdrec_jax.terminal import say
from mdrec_jax.train.loop import Loop, Validate
from mdrec_jax.train.recalibrate import make_recalibration
from mdrec_jax.train.runs.checkpoint import Checkpoints, Progress
from mdrec_jax.train.runs.journal import Journal
from mdrec_jax.train.runs.progress import display
from mdrec_jax.train.runs.run_folder import (
    STEPS,
    RunFolder,
    check_free,
    check_new,
    check_resumable,
    differences,
    filling,
    locked,
    record_resume,
    remove_unfinished,
    start,
)
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import TrainState, abstract, shapes
from mdrec_jax.train.trained import load_run, protocol_of, scorer_of
from mdrec_jax.types import FIRST_ITEM, Params


def fit(
    config: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    preset: Mapping[str, Any] | None = None,
) -> None:
    """Train until the end of the plan or until patience runs out; the run folder holds the outcome.

    Args:
        config: of the run.
        dataset: what it learns from.
        folder: of the run.
        resume: whether the folder holds a run that is to go on.
        init_from: a run whose best parameters this one starts from.
        preset: name and changed fields of the preset that `config` was made from, to be recorded; a resumed run keeps
            its own.

    Raises:
        InputError: the folder holds something else, is in use, cannot be written, or does not fit what is to be
            resumed; a field of the configuration does not fit the data.
        Interrupted, NonFiniteError: as `Loop.run`.
    """
    if not dataset.manifest.ordered:
        raise InputError("the data set has no order of events", file=dataset.path, expected="a source with an order")
    if resume and not folder.holds_a_run():
        raise InputError("no run to resume", file=folder.path, expected="the folder of a run")
    check_free(folder)
    if not resume:
        check_new(folder)
    setup = Setup.of(config, dataset)
    validate = _validation(setup)
    if not resume:
        for line in setup.plan.notes(config, setup.batches.batches_per_epoch()):
            say(line, file=sys.stderr)
    state = setup.initial_state(None if init_from is None else _params_of(init_from, setup))
    # Nothing is written before this: what is refused leaves no folder behind.
    with filling(folder), locked(folder):
        if not resume:
            check_new(folder)
        remove_unfinished(folder)
        if resume:
            preset = read_object(folder.config).get("preset")
        record, described = run_record(setup, preset), shapes(state)
        resumed = None
        if resume:
            changed = check_resumable(folder, record, described)
            for line in resume_lines(changed):
                say(line, file=sys.stderr)
            resumed = partial(record_resume, folder, record, changed)
        else:
            start(folder, record, described)
        with Checkpoints(folder.checkpoints) as checkpoints:
            _train(setup, validate, folder, checkpoints, state, resumed)


def resume_lines(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What a run that is resumed says of the changes."""
    lines = [f"resuming with another {name}: {old} -> {new}" for name, (old, new) in changed.items()]
    if any(name.startswith(("devices.", "versions.")) and old is not None for name, (old, _) in changed.items()):
        lines.append(
            "on other devices or versions sums are taken in another order: the run will not be bit-equal to one that "
            "was never stopped"
        )
    return lines


def _train(
    setup: Setup,
    validate: Validate,
    folder: RunFolder,
    checkpoints: Checkpoints,
    state: TrainState,
    resumed: Callable[[int], None] | None,
) -> None:
    """`resumed`, of a run that goes on, is told the step that it goes on from."""
    config, progress = setup.config, Progress()
    if resumed is not None and checkpoints.latest_step is not None:
        state, progress = checkpoints.restore(abstract(state))
        progress.finished = 0 < config.train.patience <= progress.validations_without_better
    done = int(state.step)
    if resumed is not None:
        resumed(done)
    board = config.logging.tensorboard
    with (
        Journal(folder, tensorboard=board, resume_step=None if resumed is None else done) as journal,
        display(setup.plan.steps, done) as shown,
    ):
        loop = Loop(
            setup.plan,
            setup.train_step,
            make_recalibration(setup),
            validate,
            config.train.metric,
            config.train.patience,
            checkpoints,
            journal,
            shown,
        )
        loop.run(state, progress, setup.batches_from(done))


def run_record(setup: Setup, preset: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `config.json` says: the configuration, its preset, the data, and the versions and devices of the run."""
    config, dataset, devices = setup.config, setup.dataset, setup.mesh.devices
    return {
        **({} if preset is None else {"preset": preset}),
        "config": config.to_plain(),
        "dataset": {"path": str(dataset.path), "hash": dataset.hash},
        STEPS: setup.plan.steps,
        "versions": {name: version(name) for name in ("mdrec-jax", "jax", "flax", "optax", "orbax-checkpoint")},
        "devices": {"kind": devices.flat[0].device_kind, "number": devices.size},
    }


def _validation(setup: Setup) -> Validate:
    """Ranks the validation targets; the baselines are no part of it.

    Raises:
        InputError: a protocol or a metric that the data set does not allow.
    """
    protocol = protocol_of(setup.config.train.protocol, setup.dataset, setup.model, "validation")
    eval_set = evaluation_set(setup.dataset, protocol)
    _check_metric(setup.config.train.metric, eval_set)
    wanted = setup.config.train.metric.rsplit("/", 1)[-1]
    names = tuple(dict.fromkeys(("hr@10", "ndcg@10", "mrr", wanted)))

    def validate(state: TrainState) -> dict[str, float]:
        ranks = rank_queries(scorer_of(setup, state.params), eval_set)
        return mean_metrics(ranks, names, setup.dataset.manifest.domains)

    return validate


def _check_metric(metric: str, eval_set: EvaluationSet) -> None:
    domain, _, name = metric.rpartition("/")
    names = eval_set.dataset.manifest.domains
    domains = ["macro", *(names[number] for number in eval_set.domains())] if len(names) > 1 else []
    if domain and domain not in domains:
        expected = " or ".join([name, *(f"{one}/{name}" for one in domains)])
        raise ConfigError("no such part of the results", column="train.metric", found=metric, expected=expected)
    try:
        parse_metric(name)
    except InputError as error:
        raise ConfigError(error.problem, column="train.metric", found=error.found, expected=error.expected) from None


def _params_of(path: Path, setup: Setup) -> Params:
    """The best parameters of another run of the same model, on this data set or one that it extends; rows of new items
    are fresh."""
    other = load_run(path, setup.dataset, asked=False)
    mine = setup.initial_state().params
    before, after = (shapes((params.dense, params.statistics)) for params in (other.params, mine))
    for name, (old, new) in differences(before, after).items():
        raise InputError("the other run's model differs", file=path, column=name, found=old, expected=str(new))
    known, tables = other.setup.dataset.num_items, {}
    for name, table in mine.tables.items():
        old = other.params.tables[name]
        if old.shape[1:] != table.shape[1:]:
            raise InputError(
                "the other run's table does not fit", file=path, column=name, found=old.shape, expected=str(table.shape)
            )
        tables[name] = np.concatenate([np.asarray(old)[:known], np.asarray(table)[known:]])
        new = setup.dataset.num_items - known
        say(f"table '{name}': {known - FIRST_ITEM:,} items from {path}, {new:,} new", file=sys.stderr)
    return jax.tree.map(jax.numpy.asarray, dataclasses.replace(other.params, tables=tables))
