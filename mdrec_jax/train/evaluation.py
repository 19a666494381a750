"""Evaluating trained runs: results beside the baselines, routing, probes; each look at the test split is recorded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mdrec_jax.config import read_config
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import baseline_ranks, stored_ranks
from mdrec_jax.evaluate.compare import verdict
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set
from mdrec_jax.evaluate.looks_at_test import check_recordable, headline, record_look
from mdrec_jax.evaluate.make_results import make_results
from mdrec_jax.evaluate.probes.probes import Probes, probe
from mdrec_jax.evaluate.probes.routing_means import Routing, measure_routing
from mdrec_jax.evaluate.protocol import Protocol, Split
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results, results_name, write_results
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.train.runs.comparable import LENGTH, check_alike, check_ended
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.trained import TrainedRun, ensemble_name, ensemble_of, load_run, model_name, protocol_of


def evaluate_runs(
    runs: Sequence[TrainedRun],
    protocol_name: str = "full",
    split: Split = "test",
    *,
    seed: int = 0,
    ensemble: bool = False,
    by: str = "Python",
) -> tuple[Results, dict[str, list[Ranks]]]:
    """The results of runs that differ in their seed, with the baselines in front, and the ranks they are made of. A
    look at the test split is recorded in each run's folder, with the command (`by`) that made it.

    Args:
        ensemble: besides the mean of the runs' figures, also the figures of the mean of their scores.

    Raises:
        InputError: runs that differ in more, several of which one stopped before its end, an ensemble of one run, a
            protocol that the data set does not allow, or a look at test that cannot be recorded.
    """
    setup = runs[0].setup
    if ensemble and len(runs) < 2:
        raise InputError("an ensemble of one run", found=runs[0].path, expected="runs of two or more seeds")
    check_alike([run.setup.config for run in runs], [run.setup.dataset.hash for run in runs])
    stopped = check_ended([run.path for run in runs])[0].length()
    check_may_look(runs, split)
    eval_set: EvaluationSet = evaluation_set(
        setup.dataset, protocol_of(protocol_name, setup.dataset, setup.model, split, seed)
    )
    baselines = baseline_ranks(eval_set) | stored_ranks(eval_set)
    models: dict[str, list[Ranks]] = {name: [one] for name, one in baselines.items()}
    names = [model_name(setup.config)]
    models[names[0]] = [rank_queries(run.scorer, eval_set) for run in runs]
    if ensemble:
        names.append(ensemble_name(setup.config, len(runs)))
        models[names[1]] = [rank_queries(ensemble_of(runs), eval_set)]
    results = make_results(
        eval_set,
        models,
        config=setup.config.hash(),
        seeds=[run.setup.config.seed for run in runs],
        selection=setup.config.train.metric,
        recipe=dataclasses.replace(setup.config, seed=0).hash(),
        length={name: getattr(setup.config.train, name) for name in LENGTH} | stopped,
    )
    if split == "test":
        for name, what in zip(names, ("ranking", "ranking by the mean of the scores"), strict=False):
            record_looks(runs, results.protocol, by, what, headline(results, name))
    return results, models


def verdict_on(runs: Sequence[TrainedRun], results: Results, ranks: dict[str, list[Ranks]]) -> str:
    """A sentence: whether runs that were evaluated are above the best baseline, by the metric that chose their
    checkpoints."""
    config = runs[0].setup.config
    found = verdict(ranks, model_name(config), config.train.metric, results.split, results.domains)
    return "no verdict: there is no baseline" if found is None else found.sentence()


def inspect_routing(path: Path, split: Split = "validation", *, at_most: int = 0) -> Routing:
    """What the best parameters of a run do with the histories of a split's queries.

    Args:
        at_most: queries whose histories are read, the same ones each time; 0 = all.

    Raises:
        InputError: no run, no checkpoint, or a model that has neither loops nor routers.
    """
    config = read_config(RunFolder(path).config).model
    if not isinstance(config, RecommenderConfig) or not (config.gates or config.loop.max_steps > 1):
        raise InputError(
            "the run's model has neither loops nor routers",
            file=path,
            expected="model.loop.max_steps > 1, model.mixers.kinds or model.experts.per_width > 0",
        )
    run = load_run(path)
    eval_set = evaluation_set(
        run.setup.dataset, protocol_of("full", run.setup.dataset, run.setup.model, split), at_most=at_most
    )
    return measure_routing(run.scorer, eval_set, config.gates)


def probe_run(
    run: TrainedRun, protocol_name: str = "full", split: Split = "test", *, seed: int = 0, by: str = "Python"
) -> Probes:
    """What a disentangled run's codes give away and are worth; on test that is a look, and is recorded.

    Raises:
        InputError: a model without codes, or a look at test that cannot be recorded.
    """
    setup = run.setup
    check_may_look([run], split)
    eval_set = evaluation_set(setup.dataset, protocol_of(protocol_name, setup.dataset, setup.model, split, seed))
    found = probe(run.scorer, eval_set, config=setup.config.hash(), seed=seed)
    if split == "test":
        record_looks([run], found.protocol, by, "probes", {"all": {"ndcg@10": found.codes["h"]["ndcg@10"].value}})
    return found


def check_may_look(runs: Sequence[TrainedRun], split: Split) -> None:
    """Refuses a look at test that a run's folder could not record. Raises InputError."""
    for run in runs if split == "test" else ():
        check_recordable(run.path)


def record_looks(
    runs: Sequence[TrainedRun], protocol: Protocol, by: str, what: str, figures: dict[str, dict[str, float]]
) -> None:
    """Records one look at test in the folder of each run that was evaluated (`evaluate/looks_at_test.py`)."""
    for run in runs:
        config = run.setup.config
        look = {
            "by": by,
            "what": what,
            "protocol": protocol.name,
            "split": protocol.split,
            "dataset": run.setup.dataset.hash,
            "config": config.hash(),
            "cooccurrence_weight": config.cooccurrence.weight,
            "step": run.step,
            "seeds": [one.setup.config.seed for one in runs],
            "figures": figures,
        }
        record_look(run.path, look)


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
