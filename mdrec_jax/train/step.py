"""One training step: look rows up, differentiate the loss, update.

The step is jitted over the explicit mesh, and its body runs inside `jax.shard_map`: each device sees its own rows of
the batch as a plain local array and the whole of the parameters. What is global is written out (three `psum`s and, for
sampled losses, one gather of ids), so that models, objectives and kernels need to know nothing of devices.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from mdrec_kernels import embedding_rows

from mdrec_jax.models.api import Model
from mdrec_jax.objectives.balance import Objectives, Pass
from mdrec_jax.objectives.next_item import Candidates
from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import OptimConfig, RowGradients
from mdrec_jax.parallel.mesh import DATA, by_row, replicated
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Encoded, Params, Rows

type Metrics = dict[str, jax.Array]
type StepFunction = Callable[[TrainState, Batch, Objectives, jax.Array], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class StepConfig:
    """What a compiled step depends on besides the model and the optimiser."""

    dtype: Any
    total_steps: int
    accumulate: int = 1


@dataclass(frozen=True)
class _Lookup:
    """One step's rows: their values, the tables' row numbers they came from, and where each name finds its own."""

    values: dict[str, jax.Array]
    ids: dict[str, jax.Array | None]
    """Row numbers of `values`; None when the values are the whole table."""
    index: dict[str, dict[str, jax.Array]]


def make_train_step(model: Model, optim: OptimConfig, mesh: Mesh, config: StepConfig) -> StepFunction:
    """The compiled step: (state, batch, objectives, seed key) -> (state, metrics). The state is donated.

    Metrics: `loss` (of the next item, mean over the global batch's targets), each further objective and each of the
    model's own losses by name (with its weight), `targets`, `gradient_norm` (dense parameters) and what the model
    reports.
    """

    def local_step(state: TrainState, batch: Batch, objectives: Objectives, seed_key: jax.Array) -> Any:
        objective, key = objectives.next_item, jax.random.fold_in(seed_key, state.step)
        negatives_key, dropout_key = jax.random.split(key)
        targets = jax.lax.psum(jnp.sum(batch.weight), DATA)
        tokens = jax.lax.psum(jnp.sum(jnp.asarray(batch.segment) > 0, dtype=jnp.float32), DATA)
        candidates = objectives.candidates(batch, negatives_key, DATA)
        lookup = _look_up(state.params.tables, model.row_ids(batch, candidates.all()), objective.needs_whole_table)
        first_row = jax.lax.axis_index(DATA) * batch.item.shape[0]

        def loss_of(dense: Any, values: dict[str, jax.Array], part: Batch, index: Any, row: jax.Array) -> Any:
            rows = {name: Rows(values[name], index[name]) for name in values}

            def encode(batch: Batch, rows: dict[str, Rows], number: int = 0) -> Encoded:
                key = jax.random.fold_in(dropout_key, number) if number else dropout_key
                return model.encode(
                    dense, rows, batch, statistics=state.params.statistics, key=key, train=True, dtype=config.dtype,
                    row_offset=row,
                )  # fmt: skip

            encoded = encode(part, rows)
            weight = jnp.asarray(part.weight) / jnp.maximum(targets, 1.0)

            def score(h: jax.Array, weight: jax.Array) -> jax.Array:
                states = dataclasses.replace(encoded, h=h)
                return objective.loss(model, dense, rows, states, part, weight, candidates, state.step, DATA)

            def each(h: jax.Array) -> jax.Array:
                return objective.each(model, dense, rows, dataclasses.replace(encoded, h=h), part, candidates)

            parts = {name: value / jnp.maximum(targets, 1.0) for name, value in encoded.losses.items()}
            for name, share in encoded.scored.items():
                parts[f"{name}_alone"] = share * score(encoded.codes[name], weight)
            vectors, draws = partial(model.item_vectors, dense, rows), jax.random.fold_in(negatives_key, 1)
            seen = Pass(part, rows, encoded, candidates, vectors, encode, score, each, draws, DATA)
            loss, shown = objectives.losses(seen, weight)
            statistics = {name: value / jnp.maximum(tokens, 1.0) for name, value in encoded.statistics.items()}
            return loss + sum(parts.values(), jnp.float32(0.0)), {**shown, **parts, **statistics}

        gradients, metrics = _accumulate(
            jax.grad(loss_of, argnums=(0, 1), has_aux=True), state.params.dense, lookup, batch, candidates,
            first_row, config.accumulate,
        )  # fmt: skip
        (dense_gradients, row_gradients), metrics = jax.lax.psum((gradients, metrics), DATA)
        params, slots = optimiser.apply(
            optim, model.facts, state.params, state.slots, dense_gradients, _with_ids(lookup, row_gradients),
            state.step, config.total_steps,
        )  # fmt: skip
        metrics |= {"targets": targets, "gradient_norm": _norm(dense_gradients)}
        return TrainState(state.step + 1, params, slots), metrics

    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(
        local_step, mesh=mesh, in_specs=(whole, split, whole, whole), out_specs=(whole, whole), check_vma=False
    )
    one, rows = replicated(mesh), by_row(mesh)
    return jax.jit(body, in_shardings=(one, rows, one, one), out_shardings=(one, one), donate_argnums=(0,))


def _look_up(tables: dict[str, jax.Array], ids: dict[str, dict[str, jax.Array]], whole: bool) -> _Lookup:
    """The rows that the global batch touches, each once; or the whole tables.

    Every device looks up the union over the data axis, so row gradients are summed by one `psum` and the update is the
    same on every device and for every mesh.
    """
    if whole:
        return _Lookup(dict(tables), dict.fromkeys(tables), ids)
    values, unique, index = {}, {}, {}
    for name, table in tables.items():
        everywhere = {k: jax.lax.all_gather(v, DATA, tiled=True) for k, v in ids[name].items()}
        values[name], unique[name], all_index = embedding_rows.lookup(table, everywhere)
        index[name] = {
            k: jax.lax.dynamic_slice_in_dim(all_index[k], jax.lax.axis_index(DATA) * v.shape[0], v.shape[0])
            for k, v in ids[name].items()
        }
    return _Lookup(values, unique, index)


def _with_ids(lookup: _Lookup, gradients: dict[str, jax.Array]) -> dict[str, RowGradients | jax.Array]:
    return {n: g if (ids := lookup.ids[n]) is None else RowGradients(ids, g) for n, g in gradients.items()}


def _accumulate(
    gradient: Callable[..., Any],
    dense: Any,
    lookup: _Lookup,
    batch: Batch,
    candidates: Candidates,
    first_row: jax.Array,
    parts: int,
) -> Any:
    """Gradients and metrics of the local rows, in `parts` micro-batches one after the other."""
    if parts == 1:
        return gradient(dense, lookup.values, batch, lookup.index, first_row)
    size = batch.item.shape[0] // parts
    shared = candidates.shared.keys()

    def cut(tree: Any, start: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree)

    def one(start: jax.Array) -> Any:
        index = {
            table: {n: v if n in shared else cut(v, start) for n, v in names.items()}
            for table, names in lookup.index.items()
        }
        return gradient(dense, lookup.values, cut(batch, start), index, first_row + start)

    def add(total: Any, start: jax.Array) -> Any:
        return jax.tree.map(jnp.add, total, one(start)), None

    starts = jnp.arange(1, parts, dtype=jnp.int32) * size
    return jax.lax.scan(add, one(jnp.int32(0)), starts)[0]


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0)))


def initial_params(model: Model, seed: int) -> Params:
    """Initial parameters: a function of the seed alone, whatever the mesh."""
    return model.init(jax.random.fold_in(jax.random.key(seed), 0))


def seed_key(seed: int) -> jax.Array:
    """The key that every step folds its number into."""
    return jax.random.fold_in(jax.random.key(seed), 1)
