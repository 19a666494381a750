"""What a block asks of its sequence while events arrive one by one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from mdrec_jax.models.attention import Attention, Places
from mdrec_jax.models.context import Context
from mdrec_jax.models.delta_memory import DeltaMemory
from mdrec_jax.models.lanes import Arrivals, Lanes, attend, erase_and_add, follow_delta
from mdrec_jax.models.layers import at_least_float32
from mdrec_jax.models.memory import SlotMemory


class Step:
    """Stands where a batch's `View` does, for one pass of one layer; `lanes` is what the pass keeps afterwards.

    Args:
        lanes: what it kept before.
        arrivals: where the events go.
        context, path: as of `View`.
        rotary: whether queries and keys are turned by their positions.
        runs: the tokens that take the pass; None = all. For any other the pass keeps what the token's state, unchanged
            by attention, gives.
        reads: False where no token takes the pass: nothing is read, and the answers are zeros.
    """

    def __init__(
        self,
        lanes: Lanes,
        arrivals: Arrivals,
        context: Context,
        path: Int32[Array, "U B"],
        *,
        rotary: bool,
        runs: Bool[Array, "U B"] | None = None,
        reads: bool = True,
    ) -> None:
        self.lanes, self.arrivals, self.context, self.path = lanes, arrivals, context, path
        self.places = Places(arrivals.here.astype(jnp.int32), None)
        self.rotary, self.runs, self.reads = rotary, runs, reads

    def attend(
        self,
        attention: Attention,
        memory: DeltaMemory | None,
        x: Float[Array, "U B D"],
        segments: int,
        seeds: UInt32[Array, "U 2"] | None,
    ) -> Float[Array, "U B D"]:
        """Attention to the last W events of the lane, and its delta memory. (`segments` is of batches alone.)

        There is no dropout: `seeds` has to be None.
        """
        assert seeds is None
        del segments
        q, k, v = attention.heads_of(x)
        self.lanes, mixed = attend(self.lanes, self.arrivals, q, k, v, rotary=self.rotary, reads=self.reads)
        if memory is not None:
            parts = (at_least_float32(part) for part in memory.tokens(x, q, k, v))
            self.lanes, read = follow_delta(self.lanes, self.arrivals, *parts, reads=self.reads)
            mixed = mixed if mixed is None or read is None else mixed + memory.gated(x, read.astype(x.dtype))
        if mixed is None:
            return jnp.zeros_like(x)
        y = attention.out(mixed.reshape(x.shape))
        return y if self.runs is None else jnp.where(self.runs[..., None], y, jnp.zeros((), y.dtype))

    def remember(self, memory: SlotMemory, x: Float[Array, "U B D"], segments: int) -> Float[Array, "U B D"]:
        """Reads and writes of the lane's slots. (`segments` is of batches alone.)"""
        del segments
        q, k, *rest = (at_least_float32(part) for part in memory.tokens(x))
        slots = memory.address.get_value().astype(q.dtype)
        q, k = (jax.nn.softmax(memory.width**-0.5 * part @ slots.T, axis=-1) for part in (q, k))
        chunk = memory.config.chunk
        self.lanes, read = erase_and_add(self.lanes, self.arrivals, q, k, *rest, chunk=chunk, reads=self.reads)
        return jnp.zeros_like(x) if read is None else memory.out(read.astype(x.dtype))
