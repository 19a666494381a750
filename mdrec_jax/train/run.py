"""A whole run: from a configuration and a prepared dataset to a trained model in a run folder."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mdrec_jax.config import RunConfig, read_config, replace
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.asked import Asked, ask
from mdrec_jax.evaluate.baselines import baseline_ranks, stored_ranks
from mdrec_jax.evaluate.evaluation import make_results, mean_metrics
from mdrec_jax.evaluate.metrics import parse_metric
from mdrec_jax.evaluate.probes import Probes, probe
from mdrec_jax.evaluate.protocol import Protocol, Split, parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results, results_name, write_results
from mdrec_jax.evaluate.routing import Routing, measure_routing
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.evaluate.verdict import verdict
from mdrec_jax.files import read_object
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.terminal import say
from mdrec_jax.train.alike import LENGTH, check_alike
from mdrec_jax.train.checkpoint import Checkpoints, Progress, load_best
from mdrec_jax.train.journal import Journal
from mdrec_jax.train.looks import check_recordable, headline, record_look
from mdrec_jax.train.loop import Loop, Validate
from mdrec_jax.train.progress import display
from mdrec_jax.train.refresh import make_refresh
from mdrec_jax.train.run_folder import (
    RunFolder,
    check_free,
    check_new,
    check_resumable,
    check_shapes,
    differences,
    filling,
    locked,
    read_data,
    record_resume,
    remove_unfinished,
    start,
)
from mdrec_jax.train.same_data import as_the_run_knows
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import TrainState, abstract, shapes
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
        record, described = _record(setup, preset), shapes(state)
        resumed = None
        if resume:
            changed = check_resumable(folder, record, described)
            for line in resume_lines(changed):
                say(line, file=sys.stderr)
            resumed = partial(record_resume, folder, record, changed)
        else:
            start(folder, record, described)
        with Checkpoints(folder.checkpoints, config.logging.keep) as checkpoints:
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
        progress.finished = 0 < config.train.patience <= progress.looks_without_better
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
            make_refresh(setup),
            validate,
            config.train.metric,
            config.train.patience,
            checkpoints,
            journal,
            shown,
        )
        loop.run(state, progress, setup.batches_from(done))


def _record(setup: Setup, preset: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `config.json` says: the configuration, its preset, the data, and the versions and devices of the run."""
    config, dataset, devices = setup.config, setup.dataset, setup.mesh.devices
    return {
        **({} if preset is None else {"preset": preset}),
        "config": config.to_plain(),
        "dataset": {"path": str(dataset.path), "hash": dataset.hash},
        "versions": {name: version(name) for name in ("mdrec-jax", "jax", "flax", "optax", "orbax-checkpoint")},
        "devices": {"kind": devices.flat[0].device_kind, "number": devices.size},
    }


def _validation(setup: Setup) -> Validate:
    """Ranks the validation targets; the baselines are no part of it.

    Raises:
        InputError: a protocol or a metric that the data set does not allow.
    """
    protocol = _protocol(setup.config.train.protocol, setup.dataset, setup.model, "validation")
    asked = ask(setup.dataset, protocol, at_most=setup.config.train.max_validation_queries)
    _check_metric(setup.config.train.metric, asked)
    wanted = setup.config.train.metric.rsplit("/", 1)[-1]
    names = tuple(dict.fromkeys(("hr@10", "ndcg@10", "mrr", wanted)))

    def validate(state: TrainState) -> dict[str, float]:
        ranks = rank_queries(scorer_of(setup, state.params), asked)
        return mean_metrics(ranks, names, setup.dataset.manifest.domains)

    return validate


def _check_metric(metric: str, asked: Asked) -> None:
    domain, _, name = metric.rpartition("/")
    names = asked.dataset.manifest.domains
    domains = ["macro", *(names[number] for number in asked.domains())] if len(names) > 1 else []
    if domain and domain not in domains:
        expected = " or ".join([name, *(f"{one}/{name}" for one in domains)])
        raise ConfigError("no such part of the results", column="train.metric", found=metric, expected=expected)
    try:
        parse_metric(name)
    except InputError as error:
        raise ConfigError(error.problem, column="train.metric", found=error.found, expected=error.expected) from None


def scorer_of(setup: Setup, params: Params) -> Scorer:
    """Parameters of a set-up run, ready to be asked."""
    dtype = compute_dtype(setup.config.precision.compute)
    return make_scorer(setup.model, params, setup.config.batching, mesh=setup.mesh, dtype=dtype, counted=setup.counted)


def _protocol(name: str, dataset: Dataset, model: Any, split: Any, seed: int = 0) -> Protocol:
    """The protocol `name` for a data set; it says whether this model is told the query's time."""
    visible = bool(getattr(model.config, "query_time_visible", False))
    protocol = parse_protocol(name, source=dataset.manifest.source, split=split, seed=seed)
    return dataclasses.replace(protocol, query_time_visible=visible)


def _params_of(path: Path, setup: Setup) -> Params:
    """The best parameters of another run of the same model, on this data set or one that it extends; rows of new items
    are fresh."""
    other = load_run(path, setup.dataset)
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


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run folder's best parameters, ready to be asked."""

    setup: Setup
    params: Params
    """On the first device, as ordinary arrays: `models.api.encode_batch` takes them; a scorer spreads them."""
    step: int
    path: Path

    @property
    def scorer(self) -> Scorer:
        return scorer_of(self.setup, self.params)


def load_run(path: Path, dataset: Dataset | None = None) -> TrainedRun:
    """The best checkpoint of a run, chosen by its validation metric.

    Args:
        path: a run folder.
        dataset: the data set to ask it about; by default the one it was trained on. What one that extends it has
            besides is to the run the unknown item.

    Raises:
        InputError: no run, no whole checkpoint, or a data set whose ids mean something else.
    """
    folder = RunFolder(path)
    config = read_config(folder.config)
    dataset = open_dataset(read_data(folder)[0]) if dataset is None else dataset
    setup = Setup.of(config, as_the_run_knows(folder, dataset))
    state = setup.initial_state()
    check_shapes(folder, shapes(state))
    state, step = load_best(folder.checkpoints, abstract(state))
    # Arrays whose type names a mesh with explicit axes refuse much of what a model does outside of `shard_map`. Put on
    # a device by its name alone, they keep that type.
    one = jax.sharding.SingleDeviceSharding(setup.mesh.devices.flat[0])
    return TrainedRun(setup, jax.device_put(state.params, one), step, path)


def with_counts(run: TrainedRun, weight: float) -> TrainedRun:
    """The same run with another weight of what counting adds.

    Raises:
        ConfigError: a weight below 0.
    """
    config = replace(run.setup.config, counts={"weight": weight})
    return dataclasses.replace(run, setup=dataclasses.replace(run.setup, config=config))


def evaluate_runs(
    runs: Sequence[TrainedRun],
    protocol_name: str = "full",
    split: Split = "test",
    *,
    seed: int = 0,
    by: str = "Python",
) -> tuple[Results, dict[str, list[Ranks]]]:
    """The results of runs that differ in their seed, with the baselines in front, and the ranks they are made of. A
    look at the test split is recorded in each run's folder, as asked for `by` this one.

    Raises:
        InputError: runs that differ in more, a protocol that the data set does not allow, or a look at test that cannot
            be recorded.
    """
    setup = runs[0].setup
    check_alike([run.setup.config for run in runs], [run.setup.dataset.hash for run in runs])
    check_may_look(runs, split)
    asked: Asked = ask(setup.dataset, _protocol(protocol_name, setup.dataset, setup.model, split, seed))
    baselines = baseline_ranks(asked) | stored_ranks(asked)
    models: dict[str, list[Ranks]] = {name: [one] for name, one in baselines.items()}
    models[model_name(setup.config)] = [rank_queries(run.scorer, asked) for run in runs]
    results = make_results(
        asked,
        models,
        config=setup.config.hash(),
        seeds=[run.setup.config.seed for run in runs],
        selection=setup.config.train.metric,
        recipe=dataclasses.replace(setup.config, seed=0).hash(),
        length={name: getattr(setup.config.train, name) for name in LENGTH},
    )
    if split == "test":
        record_looks(runs, results.protocol, by, "ranking", headline(results, model_name(setup.config)))
    return results, models


def verdict_on(runs: Sequence[TrainedRun], results: Results, ranks: dict[str, list[Ranks]]) -> str:
    """A sentence: whether runs that were evaluated are above the best counted baseline, by the metric that chose their
    checkpoints."""
    config = runs[0].setup.config
    found = verdict(ranks, model_name(config), config.train.metric, results.split, results.domains)
    return "no verdict: nothing was only counted" if found is None else found.sentence()


def inspect_routing(path: Path, split: Split = "validation", *, at_most: int = 0) -> Routing:
    """What the best parameters of a run do with the histories of a split's queries.

    Args:
        at_most: queries whose histories are read, the same ones each time; 0 = all.

    Raises:
        InputError: no run, no checkpoint, or a model that has neither loops nor routers.
    """
    config = read_config(RunFolder(path).config).model
    if not isinstance(config, MdrecConfig) or not (config.gates or config.loop.most > 1):
        raise InputError(
            "the run's model has neither loops nor routers",
            file=path,
            expected="model.loop.most > 1, model.mixers.kinds or model.experts.each > 0",
        )
    run = load_run(path)
    asked = ask(run.setup.dataset, _protocol("full", run.setup.dataset, run.setup.model, split), at_most=at_most)
    return measure_routing(run.scorer, asked, config.gates)


def probe_run(
    run: TrainedRun, protocol_name: str = "full", split: Split = "test", *, seed: int = 0, by: str = "Python"
) -> Probes:
    """What a disentangled run's codes give away and are worth; on test that is a look, and is recorded.

    Raises:
        InputError: a model without codes, or a look at test that cannot be recorded.
    """
    setup = run.setup
    check_may_look([run], split)
    asked = ask(setup.dataset, _protocol(protocol_name, setup.dataset, setup.model, split, seed))
    found = probe(run.scorer, asked, config=setup.config.hash(), seed=seed)
    if split == "test":
        record_looks([run], found.protocol, by, "probes", {"all": {"ndcg@10": found.codes["h"]["ndcg@10"].value}})
    return found


def check_may_look(runs: Sequence[TrainedRun], split: Split) -> None:
    """Refuses a look at test that a run's folder could not record. Raises InputError."""
    for run in runs if split == "test" else ():
        check_recordable(RunFolder(run.path))


def record_looks(
    runs: Sequence[TrainedRun], protocol: Protocol, by: str, what: str, figures: dict[str, dict[str, float]]
) -> None:
    """Records one look at test in the folder of each run that was asked (`looks.py`)."""
    for run in runs:
        config = run.setup.config
        look = {
            "by": by,
            "what": what,
            "protocol": protocol.name,
            "split": protocol.split,
            "dataset": run.setup.dataset.hash,
            "config": config.hash(),
            "counts_weight": config.counts.weight,
            "step": run.step,
            "seeds": [one.setup.config.seed for one in runs],
            "figures": figures,
        }
        record_look(RunFolder(run.path), look)


def model_name(config: RunConfig) -> str:
    """The model's name in tables, with all that its scores are made of: `sasrec`, `sasrec + cooccurrence 1.5`."""
    name = type(config.model).__name__.removesuffix("Config").lower()
    return f"{name} + cooccurrence {config.counts.weight:g}" if config.counts.weight else name


def evaluation_file(folder: RunFolder, split: str, protocol: str) -> Path:
    """Where a run's results under a protocol, by its name, stand: `evaluation/SPLIT-PROTOCOL.json`."""
    return folder.evaluation / results_name(split, protocol)


def write_evaluation(
    folder: RunFolder, results: Results, ranks: dict[str, list[Ranks]], path: Path | None = None
) -> Path:
    """Write a results file, by default into the run folder (`evaluation_file`)."""
    path = path or evaluation_file(folder, results.split, results.protocol.name)
    write_results(path, results, ranks)
    return path
