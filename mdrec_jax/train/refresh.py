"""What a model holds that is worked out from training histories in closed form, before each look."""

import dataclasses
from collections.abc import Callable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from mdrec_jax.models import erasure
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.train.loop import Refresh
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Params, Rows

SLOTS = 1 << 17
"""Slots of the batches that are read, at most, but one batch at least. From few users' codes a linear reader finds the
rest in the others': R2 .198 with 4,096 slots, .037 with 16,384, .009 with 32,768, .000 with these (RESULTS.md)."""


def make_refresh(setup: Setup) -> Refresh:
    """Puts the closed form of the erasure's map into a state; leaves the state of a model that erases nothing as it is.

    The codes are those of the first training batches, without dropout: it depends on nothing but the parameters, and
    done twice it is done once.
    """
    config, batching = setup.config.model, setup.config.batching
    if not (isinstance(config, MdrecConfig) and config.disentangle.erase):
        return lambda state: state
    number = min(max(1, SLOTS // (batching.rows * batching.row_length)), setup.batches.batches_per_epoch())
    batches, moments = list(islice(setup.batches_from(0), number)), _moments(setup)
    rank = config.disentangle.shared_rank

    def refresh(state: TrainState) -> TrainState:
        found = erasure.covariance([jax.device_get(moments(state.params, batch)) for batch in batches])
        # Parameters that are not finite are for the loop to find.
        return _with_kernel(state, erasure.closed_form(found, rank)) if np.isfinite(found).all() else state

    return refresh


def _with_kernel(state: TrainState, kernel: Float32[np.ndarray, "r D"]) -> TrainState:
    """The state with another map; the optimiser's moments stay."""
    fusion = state.params.dense["fusion"]
    before = fusion["erasure"]["map"]["kernel"]
    placed = jax.device_put(kernel.astype(before.dtype), before.sharding)
    changed = fusion["erasure"] | {"map": fusion["erasure"]["map"] | {"kernel": placed}}
    dense = state.params.dense | {"fusion": fusion | {"erasure": changed}}
    return dataclasses.replace(state, params=dataclasses.replace(state.params, dense=dense))


def _moments(setup: Setup) -> Callable[[Params, Batch], erasure.Moments]:
    """Compiled: the moments of the codes at a batch's targets, on every device."""
    model, dtype = setup.model, compute_dtype(setup.config.precision.compute)

    def local(params: Params, batch: Batch) -> erasure.Moments:
        ids = model.row_ids(batch, {})
        rows = {name: Rows(table, ids[name]) for name, table in params.tables.items()}
        codes = model.encode(params.dense, rows, batch, key=None, train=False, dtype=dtype).codes
        z, x = (codes[name].reshape(-1, codes[name].shape[-1]) for name in ("inner", "whole"))
        return erasure.moments(*jax.lax.all_gather((z, x, jnp.ravel(batch.weight) > 0), DATA, tiled=True))

    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(local, mesh=setup.mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)
    return jax.jit(body)
