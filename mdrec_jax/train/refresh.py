"""What a model holds that is worked out from training histories in closed form, before each look."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from mdrec_jax.models import erasure, standard
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.models.moments import Moments, covariance, moments, together
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.train.loop import Refresh
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Params, Rows

SLOTS = 1 << 17
"""Slots of the batches that are read, at most, but one batch at least. From few users' codes a linear reader finds the
rest in the others': R2 .198 with 4,096 slots, .037 with 16,384, .009 with 32,768, .000 with these (RESULTS.md)."""

LAST = 4
"""Of a history's targets, the last ones whose states the standard code's statistics are of: a model is asked where
histories end, and states of short beginnings are others (balanced accuracy of a reader of the domain on ABXI: .64 with
all of a history, .59 with its end)."""


def make_refresh(setup: Setup) -> Refresh:
    """Puts the closed forms of the erasure's map and of the standard code's statistics into a state; leaves the state
    of a model that has neither as it is.

    The codes are those of the first training batches, without dropout: it depends on nothing but the parameters, and
    done twice it is done once.
    """
    config, batching = setup.config.model, setup.config.batching
    codes = config.disentangle if isinstance(config, MdrecConfig) else None
    if codes is None or not (codes.erase or codes.standardise):
        return lambda state: state
    number = min(max(1, SLOTS // (batching.rows * batching.row_length)), setup.batches.batches_per_epoch())
    batches, read, rank = list(islice(setup.batches_from(0), number)), _moments(setup), codes.shared_rank

    def refresh(state: TrainState) -> TrainState:
        parts = [jax.device_get(read(state.params, batch)) for batch in batches]
        found = {name: together([part[name] for part in parts]) for name in parts[0]}
        # Parameters that are not finite are for the loop to find.
        if not all(np.isfinite(value).all() for value in jax.tree.leaves(found)):
            return state
        if "erasure" in found:
            kernel = erasure.closed_form(covariance(found["erasure"]), rank)
            state = _with(state, {"erasure": {"map": {"kernel": kernel}}})
        if "standard" in found:
            state = _with(state, {"standard": standard.closed_form(found["standard"])})
        return state

    return refresh


def _with(state: TrainState, values: dict[str, Any]) -> TrainState:
    """The state with other values of some parameters of the fusion; the optimiser's moments stay."""

    def changed(before: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        return before | {name: one(before[name], value) for name, value in values.items()}

    def one(before: Any, value: Any) -> Any:
        if isinstance(value, dict):
            return changed(before, value)
        return jax.device_put(value.astype(before.dtype), before.sharding)

    dense = changed(state.params.dense, {"fusion": values})
    return dataclasses.replace(state, params=dataclasses.replace(state.params, dense=dense))


def _moments(setup: Setup) -> Callable[[Params, Batch], dict[str, Moments]]:
    """Compiled: the moments of the codes at a batch's targets, on every device. `erasure`: of what its map lies
    between, side by side; `standard`: of the shared code where histories end, one a domain of the last event."""
    model, dtype = setup.model, compute_dtype(setup.config.precision.compute)
    domains = jnp.arange(setup.dataset.spec.num_domains, dtype=jnp.int32)

    def local(params: Params, batch: Batch) -> dict[str, Moments]:
        ids = model.row_ids(batch, {})
        rows = {name: Rows(table, ids[name]) for name, table in params.tables.items()}
        codes = model.encode(params.dense, rows, batch, key=None, train=False, dtype=dtype).codes
        codes = {name: codes[name] for name in ("inner", "whole", "plain") if name in codes}
        flat = {name: code.reshape(-1, code.shape[-1]) for name, code in codes.items()}
        facts = jnp.ravel(batch.weight) > 0, jnp.ravel(batch.domain), jnp.ravel(_at_the_end(jnp.asarray(batch.segment)))
        flat, (real, domain, end) = jax.lax.all_gather((flat, facts), DATA, tiled=True)
        found = {}
        if "inner" in flat:
            found["erasure"] = moments(jnp.concatenate([flat["inner"], flat["whole"]], axis=1), real)
        if "plain" in flat:
            mine = (real & end)[None, :] & (domain[None, :] == domains[:, None])
            found["standard"] = jax.vmap(moments, in_axes=(None, 0))(flat["plain"], mine)
        return found

    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(local, mesh=setup.mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)
    return jax.jit(body)


def _at_the_end(segment: Int32[Array, "R T"]) -> Bool[Array, "R T"]:
    """The last columns of each segment, LAST of them."""
    return jnp.pad(segment[:, LAST:], ((0, 0), (0, LAST))) != segment
