"""What a model holds that is worked out in closed form from training histories, before each validation.

What was worked out is part of the state: it is validated, kept in the checkpoint, and asked, served and streamed with.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int32

from mdrec_jax.data.batching.queries import QueryList, training_ends
from mdrec_jax.evaluate.scorer import code_of, codes_at, last_events, make_scorer
from mdrec_jax.models.api import encode_batch
from mdrec_jax.models.layers import erasure
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.parallel.mesh import DATA
from mdrec_jax.train.loop import Recalibration
from mdrec_jax.train.setup import Setup, compute_dtype
from mdrec_jax.train.state import TrainState
from mdrec_jax.types import Batch, Params

TOKENS = 1 << 17
"""Tokens of the batches that are read, padding among them, at most, but one batch at least. From few users' codes a
linear reader finds the rest in the others': R2 .198 with 4,096 tokens, .037 with 16,384, .009 with 32,768, .000 with
these (RESULTS.md)."""


def make_recalibration(setup: Setup) -> Recalibration:
    """Has the model put its closed forms into a state; leaves the state of a model that has none as it is.

    The codes are worked out without dropout: they depend on nothing but the parameters, and what is done twice is done
    once.
    """
    histories = _Histories(setup)

    def recalibrate(state: TrainState) -> TrainState:
        if not setup.model.recalibrates:
            return state
        new = setup.model.recalibrate(state.params, _Codes(histories, state.params))
        placed = jax.tree.map(lambda x, old: jax.device_put(x.astype(old.dtype), old.sharding), new, state.params)
        # The optimiser's moments stay.
        return dataclasses.replace(state, params=placed)

    return recalibrate


@dataclass(frozen=True)
class _Histories:
    """A run's training histories, ready to be read; what a validation does not ask for is never made."""

    setup: Setup

    @cached_property
    def batches(self) -> list[Batch]:
        """The first of training."""
        batching, batches = self.setup.config.batching, self.setup.batches
        number = min(max(1, TOKENS // (batching.rows * batching.row_length)), batches.batches_per_epoch())
        return list(islice(self.setup.batches_from(0), number))

    @cached_property
    def ends(self) -> QueryList:
        return last_events(training_ends(self.setup.dataset))

    @property
    def dtype(self) -> Any:
        return compute_dtype(self.setup.config.precision.compute)

    def moments(self, first: str, second: str) -> Callable[[Params, Batch], erasure.Moments]:
        """Compiled: the moments of two codes at a batch's targets, on every device."""
        model, dtype, spread = self.setup.model, self.dtype, Spread(DATA)

        def local(params: Params, batch: Batch) -> erasure.Moments:
            encoded = encode_batch(model, params, batch, dtype=dtype)
            z, x = (code_of(model, encoded, name) for name in (first, second))
            rows = z.reshape(-1, z.shape[-1]), x.reshape(-1, x.shape[-1]), jnp.ravel(batch.weight) > 0
            return erasure.moments(*spread.gather(rows))

        whole, split = jax.P(), jax.P(DATA)
        body = jax.shard_map(local, mesh=self.setup.mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)
        return jax.jit(body)

    @cached_property
    def compiled(self) -> dict[tuple[str, str], Callable[[Params, Batch], erasure.Moments]]:
        return {}


@dataclass(frozen=True)
class _Codes:
    """`models.disentangle.TrainingCodes` of some parameters."""

    histories: _Histories
    params: Params

    def covariance(self, first: str, second: str) -> Float64[np.ndarray, "E E"]:
        compiled, name = self.histories.compiled, (first, second)
        if name not in compiled:
            compiled[name] = self.histories.moments(first, second)
        moments = [jax.device_get(compiled[name](self.params, batch)) for batch in self.histories.batches]
        return erasure.covariance(moments)

    def ends(self, code: str) -> tuple[Float32[np.ndarray, "N D"], Int32[np.ndarray, " N"]]:
        setup, ends = self.histories.setup, self.histories.ends
        dtype = self.histories.dtype
        scorer = make_scorer(setup.model, self.params, setup.config.batching, mesh=setup.mesh, dtype=dtype)
        return codes_at(scorer, setup.dataset, ends, code), ends.domain
