"""What a model holds that is worked out in closed form from training histories, before each look.

What was worked out is part of the state: it is validated, kept in the checkpoint, and asked, served and streamed with.
"""

import dataclasses
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.data.queries import training_ends
from mdrec_jax.evaluate.codes import codes_at, last_events
from mdrec_jax.evaluate.scorer import make_scorer
from mdrec_jax.models import erasure, standard
from mdrec_jax.models.api import encode_batch
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.train.loop import Refresh
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Params

SLOTS = 1 << 17
"""Slots of the batches that are read, at most, but one batch at least. From few users' codes a linear reader finds the
rest in the others': R2 .198 with 4,096 slots, .037 with 16,384, .009 with 32,768, .000 with these (RESULTS.md)."""


def make_refresh(setup: Setup) -> Refresh:
    """Puts the closed forms of the erasure's map and of the standard code's statistics into a state; leaves the state
    of a model that has neither as it is.

    The codes are worked out without dropout: they depend on nothing but the parameters, and what is done twice is done
    once.
    """
    config = setup.config.model
    parts: list[Refresh] = []
    if isinstance(config, MdrecConfig) and config.disentangle.erase:
        parts.append(_erasing(setup, config.disentangle.shared_rank))
    if isinstance(config, MdrecConfig) and config.disentangle.standardise:
        parts.append(_standardising(setup))

    def refresh(state: TrainState) -> TrainState:
        for part in parts:
            state = part(state)
        return state

    return refresh


def _at(state: TrainState, params: Params) -> TrainState:
    """The optimiser's moments stay."""
    return dataclasses.replace(state, params=params)


def _erasing(setup: Setup, rank: int) -> Refresh:
    """The erasure's map, from the codes of the first training batches."""
    batching = setup.config.batching
    number = min(max(1, SLOTS // (batching.rows * batching.row_length)), setup.batches.batches_per_epoch())
    batches, moments = list(islice(setup.batches_from(0), number)), _moments(setup)

    def refresh(state: TrainState) -> TrainState:
        found = erasure.covariance([jax.device_get(moments(state.params, batch)) for batch in batches])
        # Codes may be too large for their squares where parameters are not: the look finds them.
        if not np.isfinite(found).all():
            return state
        return _at(
            state, _with(state.params, "dense", {"erasure": {"map": {"kernel": erasure.closed_form(found, rank)}}})
        )

    return refresh


def _standardising(setup: Setup) -> Refresh:
    """The standard code's statistics: those of the states where training histories end (models/standard.py)."""
    histories = last_events(training_ends(setup.dataset))
    dtype = compute_dtype(setup.config.precision.compute)

    def refresh(state: TrainState) -> TrainState:
        scorer = make_scorer(setup.model, state.params, setup.config.batching, mesh=setup.mesh, dtype=dtype)
        code = codes_at(scorer, setup.dataset, histories, "plain")
        maps = standard.closed_form(code, histories.domain, setup.dataset.spec.num_domains)
        return _at(state, _with(state.params, "statistics", {"standard": maps}))

    return refresh


def _with(params: Params, part: Literal["dense", "statistics"], values: dict[str, Any]) -> Params:
    """The parameters with other values of some of the fusion's."""

    def changed(before: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        return before | {name: one(before[name], value) for name, value in values.items()}

    def one(before: Any, value: Any) -> Any:
        if isinstance(value, dict):
            return changed(before, value)
        return jax.device_put(value.astype(before.dtype), before.sharding)

    return dataclasses.replace(params, **{part: changed(getattr(params, part), {"fusion": values})})


def _moments(setup: Setup) -> Callable[[Params, Batch], erasure.Moments]:
    """Compiled: the moments of the codes at a batch's targets, on every device."""
    model, dtype = setup.model, compute_dtype(setup.config.precision.compute)

    def local(params: Params, batch: Batch) -> erasure.Moments:
        codes = encode_batch(model, params, batch, dtype=dtype).codes
        z, x = (codes[name].reshape(-1, codes[name].shape[-1]) for name in ("inner", "whole"))
        return erasure.moments(*jax.lax.all_gather((z, x, jnp.ravel(batch.weight) > 0), DATA, tiled=True))

    whole, split = jax.P(), jax.P(DATA)
    body = jax.shard_map(local, mesh=setup.mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)
    return jax.jit(body)
