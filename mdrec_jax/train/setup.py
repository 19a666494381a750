"""From a configuration and a prepared dataset to everything that the loop needs."""

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mdrec_jax.config import RunConfig, check_lengths, field_names
from mdrec_jax.data.batching.batches import TrainBatches, grain_loader
from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.data.dataset import Dataset, category_numbers
from mdrec_jax.errors import DoesNotFitError
from mdrec_jax.evaluate.baselines.run import count_training
from mdrec_jax.evaluate.cooccurrence import Cooccurrence
from mdrec_jax.models.api import Model, make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.objectives.combine import Objectives, check_objectives
from mdrec_jax.objectives.next_item import make_objective
from mdrec_jax.parallel.mesh import by_row, make_mesh, replicated, rows_for
from mdrec_jax.train.loop import RunPlan
from mdrec_jax.train.state import TrainState, init_state
from mdrec_jax.train.step import StepConfig, StepFunction, initial_params, make_train_step, seed_key
from mdrec_jax.types import Batch, Params, table_length


@dataclass(frozen=True)
class Setup:
    """One run, ready to go."""

    config: RunConfig
    dataset: Dataset
    mesh: Mesh
    model: Model
    batches: TrainBatches
    objectives: Objectives
    plan: RunPlan
    step: StepFunction

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> "Setup":
        """Raises InputError, or ConfigError for a field that does not fit the data or the devices."""
        with field_names(config):
            return cls._of(config, dataset)

    @classmethod
    def _of(cls, config: RunConfig, dataset: Dataset) -> "Setup":
        check_lengths(config)
        mesh = make_mesh(config.hardware)
        model = make_model(config.model, dataset.spec)
        check_fits(model, config.batching.rows * config.batching.row_length * config.model.dim)
        counts = np.bincount(dataset.item[dataset.role == 0], minlength=dataset.spec.num_items)
        next_item = make_objective(config.loss, dataset.domain_items, counts, table_length(dataset.spec.num_items))
        parts = config.model if isinstance(config.model, RecommenderConfig) else RecommenderConfig()
        check_objectives(
            config.objectives,
            views=parts.views.in_domain,
            codes=parts.disentangle.codes,
            micro_batches=config.train.accumulate,
        )
        taxonomy = config.objectives.taxonomy
        categories = jnp.asarray(category_numbers(dataset, taxonomy.levels)) if taxonomy.weight else None
        objectives = jax.device_put(Objectives(next_item, categories, config.objectives), replicated(mesh))
        batches = TrainBatches(dataset, config.batching, config.seed)
        plan = RunPlan.of(config, batches.batches_per_epoch())
        how = StepConfig(compute_dtype(config.precision.compute), plan.steps, config.train.accumulate)
        step = make_train_step(model, config.optim, mesh, how)
        return cls(config, dataset, mesh, model, batches, objectives, plan, step)

    @cached_property
    def cooccurrence(self) -> Cooccurrence | None:
        """The co-occurrence bonus."""
        if not self.config.cooccurrence.weight:
            return None
        return Cooccurrence(
            count_training(self.dataset, plain(self.dataset.role) == ROLE_TRAIN), self.config.cooccurrence
        )

    def initial_state(self, params: Params | None = None) -> TrainState:
        """Fresh parameters, or `params`, with empty slots."""
        params = params or initial_params(self.model, self.config.seed)
        return init_state(params, self.model.facts, self.config.optim, self.mesh)

    def batches_from(self, step: int) -> Iterator[Batch]:
        """Batches `step`, `step + 1`, ... on the devices, their rows spread over the data axis."""
        rows = rows_for(self.mesh, self.config.batching.rows, self.config.train.accumulate)
        for batch in grain_loader(self.batches, step):
            yield jax.device_put(with_rows(batch, rows), by_row(self.mesh))

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        return self.step(state, batch, self.objectives, self._key)

    @property
    def _key(self) -> jax.Array:
        return jax.device_put(seed_key(self.config.seed), replicated(self.mesh))


def with_rows(batch: Batch, rows: int) -> Batch:
    """`batch` with empty rows added at its end."""
    missing = rows - batch.item.shape[0]
    if not missing:
        return batch
    empty = {"previous_in_target_domain": -1, "segment_user": -1}

    def fill(name: str) -> np.ndarray:
        array = np.asarray(getattr(batch, name))
        return np.concatenate([array, np.full((missing, array.shape[1]), empty.get(name, 0), array.dtype)])

    return Batch(**{field.name: fill(field.name) for field in dataclasses.fields(Batch)})


def compute_dtype(name: str) -> Any:
    """The type of activations: `auto` is float32 on a CPU and bfloat16 on accelerators."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


COPIES = 3
"""A parameter stands there with the optimiser's two moments."""


def check_fits(model: Model, activations: int) -> None:
    """Refuses a model that is larger than this machine's memory (of an accelerator: its own).

    Args:
        model: whose parameters, with their moments, have to fit.
        activations: numbers in one layer's activations of a batch, which have to fit beside them.

    Raises:
        DoesNotFitError: with both sizes.
    """
    try:
        params = jax.eval_shape(model.init, jax.random.key(0))
    except (OverflowError, MemoryError) as error:  # sizes that no array can have
        raise DoesNotFitError(f"the model does not fit into memory: {error}") from error
    # Sizes are Python's numbers: products of a billion and a billion do not wrap around.
    needed = COPIES * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    needed += 4 * activations
    room = _room()
    if room is not None and needed > room:
        raise DoesNotFitError(
            "the model does not fit into memory\n"
            f"  found:    parameters, moments and a batch of {needed / 2**30:,.1f} GiB\n"
            f"  expected: at most {room / 2**30:,.1f} GiB\n"
            "  hint:     a smaller model, or smaller batches (--batching.rows)"
        )


def _room() -> int | None:
    """Bytes of memory of all devices; None where it is not known."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
        return math.prod(map(os.sysconf, names)) if set(names) <= os.sysconf_names.keys() else None
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None
