"""A run that was trained: its best parameters, ready to be asked."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mdrec_jax.config import RunConfig, read_config, replace
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.scorer import Scorer, make_scorer
from mdrec_jax.models.api import kind_of
from mdrec_jax.models.ensemble import Ensemble, side_by_side
from mdrec_jax.train.runs.checkpoint import load_best
from mdrec_jax.train.runs.comparable import as_the_run_knows
from mdrec_jax.train.runs.run_folder import RunFolder, check_shapes, read_data
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import abstract, shapes
from mdrec_jax.types import Params


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


def load_run(path: Path, dataset: Dataset | None = None, *, asked: bool = True) -> TrainedRun:
    """The best checkpoint of a run, chosen by its validation metric.

    Args:
        path: a run folder.
        dataset: the data set to ask it about; by default the one it was trained on. What one that extends it has
            besides is to the run the unknown item.
        asked: as in `as_the_run_knows`.

    Raises:
        InputError: no run, no whole checkpoint, or a data set whose ids mean something else.
    """
    folder = RunFolder(path)
    config = read_config(folder.config)
    dataset = open_dataset(read_data(folder)[0]) if dataset is None else dataset
    setup = Setup.of(config, as_the_run_knows(folder, dataset, asked=asked))
    state = setup.initial_state()
    check_shapes(folder, shapes(state))
    state, step = load_best(folder.checkpoints, abstract(state))
    # Arrays whose type names a mesh with explicit axes refuse much of what a model does outside of `shard_map`. Put on
    # a device by its name alone, they keep that type.
    one = jax.sharding.SingleDeviceSharding(setup.mesh.devices.flat[0])
    return TrainedRun(setup, jax.device_put(state.params, one), step, path)


def scorer_of(setup: Setup, params: Params) -> Scorer:
    """Parameters of a set-up run, ready to be asked."""
    dtype = compute_dtype(setup.config.precision.compute)
    return make_scorer(
        setup.model, params, setup.config.batching, mesh=setup.mesh, dtype=dtype, cooccurrence=setup.cooccurrence
    )


def ensemble_of(runs: Sequence[TrainedRun]) -> Scorer:
    """Runs that differ in their seed, asked as one (`models/ensemble.py`). The co-occurrence bonus is added once."""
    setup, params = runs[0].setup, side_by_side([run.params for run in runs])
    return scorer_of(dataclasses.replace(setup, model=Ensemble(setup.model, len(runs))), params)


def ensemble_name(config: RunConfig, members: int) -> str:
    """Its name in tables: `mdrec, 2 seeds' scores`."""
    return f"{model_name(config)}, {members} seeds' scores"


def with_cooccurrence(run: TrainedRun, weight: float) -> TrainedRun:
    """The same run with another weight of the co-occurrence bonus.

    Raises:
        ConfigError: a weight below 0.
    """
    config = replace(run.setup.config, cooccurrence={"weight": weight})
    return dataclasses.replace(run, setup=dataclasses.replace(run.setup, config=config))


def model_name(config: RunConfig) -> str:
    """The model's name in tables, with all that its scores are made of: `sasrec`, `sasrec + cooccurrence 1.5`."""
    name = kind_of(config.model)
    return f"{name} + cooccurrence {config.cooccurrence.weight:g}" if config.cooccurrence.weight else name


def protocol_of(name: str, dataset: Dataset, model: Any, split: Any, seed: int = 0) -> Protocol:
    """The protocol `name` for a data set; it says whether this model is told the query's time."""
    visible = bool(getattr(model.config, "query_time_visible", False))
    protocol = parse_protocol(name, source=dataset.manifest.source, split=split, seed=seed)
    return dataclasses.replace(protocol, query_time_visible=visible)
