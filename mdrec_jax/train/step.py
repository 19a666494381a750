"""One training step: look rows up, differentiate the loss, update.

The step is jitted over the explicit mesh, and its body runs inside `jax.shard_map`: each device sees its own rows of
the batch as a plain local array and the whole of the parameters. What is global is a `Spread`'s doing (sums, and for
sampled losses one gather of ids), so that models, objectives and kernels need to know nothing of devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mdrec_jax.models.api import Model
from mdrec_jax.models.encoded import trace_sums
from mdrec_jax.models.layers.dropout import row_seeds
from mdrec_jax.objectives.combine import Objectives
from mdrec_jax.objectives.forward import Forward
from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import OptimConfig, RowGradients
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.parallel.mesh import DATA, by_row, replicated
from mdrec_jax.parallel.tables import Lookup, look_up
from mdrec_jax.train.gradients import Metrics, gradients
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Params, Rows

type StepFunction = Callable[[TrainState, Batch, Objectives, jax.Array], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class StepConfig:
    """What a compiled step depends on besides the model and the optimiser."""

    dtype: Any
    total_steps: int
    micro_batches: int = 1


def make_train_step(model: Model, optim: OptimConfig, mesh: Mesh, config: StepConfig) -> StepFunction:
    """The compiled step: (state, batch, objectives, seed key) -> (state, metrics). The state is donated.

    Metrics: `loss` (of the next item, mean over the global batch's targets), each further objective by name,
    `targets`, `gradient_norm` (dense parameters) and what the layers did, in the mean over tokens.
    """
    spread = Spread(DATA)

    def local_step(state: TrainState, batch: Batch, objectives: Objectives, seed_key: jax.Array) -> Any:
        negatives_key, dropout_key = jax.random.split(jax.random.fold_in(seed_key, state.step))
        targets = spread.sum(jnp.sum(batch.weight))
        tokens = spread.sum(jnp.sum(jnp.asarray(batch.segment) > 0, dtype=jnp.float32))
        candidates = objectives.candidates(batch, negatives_key, spread)
        whole, ids = objectives.next_item.needs_whole_table, model.row_ids(batch, candidates.all())
        lookup = look_up(state.params.tables, ids, spread, whole=whole)

        def loss(dense: Any, rows: dict[str, Rows], part: Batch, row: jax.Array, key: jax.Array) -> Any:
            encoded = model.encode(
                dense, rows, part, statistics=state.params.statistics, key=key, train=True, dtype=config.dtype,
                row_offset=row,
            )  # fmt: skip

            def vectors(ids: str | None) -> jax.Array:
                return model.scored_items(model.item_vectors(dense, rows, None, ids))

            seen = Forward(
                model, part, encoded, objectives.next_item, candidates, vectors,
                row_seeds(key, part.item.shape[0], row), jnp.maximum(targets, 1.0), spread,
            )  # fmt: skip
            value, shown = objectives.losses(seen)
            sums = trace_sums(encoded.traces, jnp.asarray(part.segment), model.gates)
            return value, shown | {name: total / jnp.maximum(tokens, 1.0) for name, total in sums.items()}

        first_row, shared = spread.index * batch.item.shape[0], frozenset(candidates.shared)
        mine = gradients(
            loss, state, lookup, batch, dropout_key, first_row=first_row, shared=shared,
            micro_batches=config.micro_batches,
        )  # fmt: skip
        dense, row, metrics = spread.sum(mine)
        params, slots = optimiser.apply(
            optim, model.facts, state.params, state.slots, dense, _with_ids(lookup, row), state.step,
            config.total_steps,
        )  # fmt: skip
        metrics |= {"targets": targets, "gradient_norm": _norm(dense)}
        return TrainState(state.step + 1, params, slots), metrics

    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(
        local_step, mesh=mesh, in_specs=(whole, split, whole, whole), out_specs=(whole, whole), check_vma=False
    )
    one, rows = replicated(mesh), by_row(mesh)
    return jax.jit(body, in_shardings=(one, rows, one, one), out_shardings=(one, one), donate_argnums=(0,))


def _with_ids(lookup: Lookup, gradients: dict[str, jax.Array]) -> dict[str, RowGradients | jax.Array]:
    return {n: g if (ids := lookup.ids[n]) is None else RowGradients(ids, g) for n, g in gradients.items()}


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0)))


def initial_params(model: Model, seed: int) -> Params:
    """Initial parameters: a function of the seed alone, whatever the mesh."""
    return model.init(jax.random.fold_in(jax.random.key(seed), 0))


def seed_key(seed: int) -> jax.Array:
    """The key that every step folds its number into."""
    return jax.random.fold_in(jax.random.key(seed), 1)
