"""A search over named fields of a configuration, by the validation split alone: the test split is never asked."""

import ast
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdrec_jax.codec import digest, to_plain
from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError, NonFiniteError
from mdrec_jax.evaluate.make_results import model_rows
from mdrec_jax.evaluate.results import Row
from mdrec_jax.experiments.config_fields import value_of, with_fields
from mdrec_jax.experiments.costs import parameters
from mdrec_jax.experiments.runs import check_runs, course_of, finish, place_of, ranks_of, seed_folder
from mdrec_jax.experiments.tables import TextTable, figure
from mdrec_jax.terminal import say
from mdrec_jax.train.runs.run_folder import RunFolder

NOT_SEARCHED = {
    "seed": "--seeds",
    "train.metric": "one metric for all trials",
    "train.protocol": "one protocol for all trials",
}
"""Fields that would make trials incomparable, and what is expected instead."""


@dataclass(frozen=True)
class Trial:
    """One choice of values: field -> value, and the configuration with them."""

    values: dict[str, Any]
    config: RunConfig

    @property
    def folder(self) -> str:
        """Named after the values, so that a wider search finds the trials that it has in common with this one."""
        return f"trial-{digest(self.values)[:8]}"

    def runs(self, out: Path, seeds: Sequence[int]) -> dict[Path, RunConfig]:
        """The folder and the configuration of each seed's run."""
        return {seed_folder(out / self.folder, seed): replace(self.config, seed=seed) for seed in seeds}


def parse_field(text: str) -> tuple[str, list[Any]]:
    """A field and the values to try, from `NAME=VALUE,VALUE,...`; a value may be a list in brackets.

    Raises:
        ConfigError: another form.
    """
    name, equals, listed = text.partition("=")
    values = [value.strip() for value in re.split(r",(?![^(\[]*[)\]])", listed)]
    if not equals or not name.strip() or not all(values):
        raise ConfigError("not a field with values", column="--field", found=text, expected="NAME=VALUE,VALUE,...")
    return name.strip().replace("-", "_"), [_value(value) for value in values]


def _value(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def make_trials(
    config: RunConfig, fields: Mapping[str, Sequence[Any]], dataset: Dataset, *, number: int = 0
) -> list[Trial]:
    """All combinations of the fields' values, or `number` of them, drawn at random by the configuration's seed.

    Every combination is checked, whether it is drawn or not.

    Raises:
        ConfigError: a field that does not exist or may not be searched, or a value that it cannot have.
        InputError: a data set that lacks what a model needs.
    """
    for name in fields:
        if name in NOT_SEARCHED:
            raise ConfigError("this field is not searched", column=name, found=name, expected=NOT_SEARCHED[name])
    trials: dict[str, Trial] = {}
    for values in itertools.product(*fields.values()):
        chosen = with_fields(config, dict(zip(fields, values, strict=True)))
        parameters(chosen, dataset)  # builds the model, and so checks its sizes
        trial = Trial({name: to_plain(value_of(chosen, name)) for name in fields}, chosen)
        trials[trial.folder] = trial
    listed = list(trials.values())
    if not 0 < number < len(listed):
        return listed
    drawn = np.random.default_rng(config.seed).choice(len(listed), number, replace=False)
    return [listed[index] for index in sorted(drawn)]


@dataclass(frozen=True)
class Tried:
    """A trial after its runs.

    Args:
        metric: the validation metric that trials are ordered by.
        rows: the validation figures by domain, means over the seeds; empty where a loss was not finite.
        failure: the message then.
        steps, targets_per_second: means over the runs.
    """

    trial: Trial
    metric: str
    runs: tuple[Path, ...]
    dense: int
    steps: float
    targets_per_second: float
    rows: tuple[Row, ...]
    failure: str = ""

    @property
    def value(self) -> float:
        """Of the metric; minus infinity where a loss was not finite."""
        domain, name = place_of(self.metric)
        return next((row.metrics[name] for row in self.rows if row.domain == domain), float("-inf"))

    @property
    def interval(self) -> tuple[float, float]:
        domain, name = place_of(self.metric)
        return next(row.interval[name] for row in self.rows if row.domain == domain)


def sweep(trials: Sequence[Trial], dataset: Dataset, out: Path, seeds: Sequence[int]) -> list[Tried]:
    """Run every trial with every seed, or what is left of that to do; the best by validation first.

    Raises:
        InputError: a folder in `out` holds another run.
        Interrupted: as `train.fit.fit`; what was done stays.
        NonFiniteError: no trial ended with a finite loss.
    """
    check_runs({path: config for trial in trials for path, config in trial.runs(out, seeds).items()}, dataset)
    tried = []
    for number, trial in enumerate(trials, 1):
        named = ", ".join(f"{name} {value}" for name, value in trial.values.items())
        say(f"[{number}/{len(trials)}] {named}: {out / trial.folder}", file=sys.stderr)
        tried.append(_try(trial, dataset, out, seeds))
    tried.sort(key=lambda one: -one.value)
    if not tried[0].rows:
        raise NonFiniteError(f"no trial ended with a finite loss; the first: {tried[0].failure}")
    return tried


def _try(trial: Trial, dataset: Dataset, out: Path, seeds: Sequence[int]) -> Tried:
    runs, train = trial.runs(out, seeds), trial.config.train
    failure, rows = "", ()
    try:
        for path, config in runs.items():
            if not finish(config, dataset, path, ("validation",), (train.protocol,)):
                say(f"  seed {config.seed}: done before", file=sys.stderr)
    except NonFiniteError as error:  # A rate that is too high is an answer, too.
        failure = str(error)
        say(f"  {failure}", file=sys.stderr)
    if not failure:
        results, ranks = ranks_of(list(runs), "validation", train.protocol)
        metrics = tuple(dict.fromkeys((place_of(train.metric)[1], "hr@10", "ndcg@10", "mrr")))
        rows = model_rows(trial.folder, ranks, results.domains, metrics=metrics)[0]
    steps, rate = course_of([path for path in runs if RunFolder(path).holds_a_run()])
    return Tried(trial, train.metric, tuple(runs), parameters(trial.config, dataset)[0], steps, rate, rows, failure)


def flags(values: Mapping[str, Any]) -> list[str]:
    """Values of fields as `mdrec train` takes them."""
    out = []
    for name, value in values.items():
        *groups, last = name.replace("_", "-").split(".")
        if isinstance(value, bool):
            out.append("--" + ".".join((*groups, last if value else f"no-{last}")))
        else:
            out += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, list) else (value,))]
    return out


def sweep_table(tried: Sequence[Tried], seeds: Sequence[int], protocol: str) -> TextTable:
    """Trials in order, a column for each field."""
    fields, metric = tuple(tried[0].trial.values), tried[0].metric
    columns = ("trial", *fields, "dense", "steps", "targets/s", f"validation {metric}")
    rows = tuple(
        (
            one.trial.folder,
            *map(str, one.trial.values.values()),
            f"{one.dense:,}",
            f"{one.steps:,.0f}",
            f"{one.targets_per_second:,.0f}",
            figure(one.value, one.interval) if one.rows else "not finite",
        )
        for one in tried
    )
    drawn = "users and seeds" if len(seeds) > 1 else "users"
    note = (
        f"seeds {', '.join(map(str, seeds))}. Brackets: 95 %, bootstrap over {drawn}. Nothing here saw the test split."
    )
    return TextTable(f"{len(tried)} trials, validation, protocol {protocol}", columns, rows, (note,))


def sweep_to_json(tried: Sequence[Tried], dataset: Dataset, seeds: Sequence[int], command: str) -> dict[str, Any]:
    """Everything that was measured, and the command that trains the winner."""
    train = tried[0].trial.config.train
    return {
        "dataset": dataset.hash,
        "seeds": list(seeds),
        "metric": train.metric,
        "protocol": train.protocol,
        "command": command,
        "trials": [
            {
                "values": one.trial.values,
                "config": one.trial.config.hash(),
                "runs": [str(path) for path in one.runs],
                "dense": one.dense,
                "steps": one.steps,
                "targets_per_second": one.targets_per_second,
                "validation": [row.to_json() for row in one.rows],
                "failure": one.failure or None,
            }
            for one in tried
        ],
    }
