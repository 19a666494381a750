"""One block of the flagship, over the tokens of a view."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from mdrec_jax.models.attention import Attention, Places
from mdrec_jax.models.context import Context
from mdrec_jax.models.delta_memory import DeltaMemory
from mdrec_jax.models.experts import Experts
from mdrec_jax.models.layers import FeedForward, Linear, Norm, dropout, fold_seeds
from mdrec_jax.models.looping import Halting, PassChange
from mdrec_jax.models.mdrec_config import MdrecConfig
from mdrec_jax.models.memory import BankReads, SharedBank, SlotMemory
from mdrec_jax.models.mixers import Mixers
from mdrec_jax.models.sasrec import gated
from mdrec_jax.models.stepping import Step
from mdrec_jax.models.trace import Trace, mean_of, trace_of
from mdrec_jax.models.views import DomainPaths
from mdrec_jax.types import DatasetSpec


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class View:
    """What a block needs to know of the tokens it runs over."""

    places: Places
    path: Int32[Array, "R T"]
    """Which low-rank path a token takes: 0 in the mixed view, 1 + its domain in the in-domain view."""
    context: Context

    def attend(
        self,
        attention: Attention,
        memory: DeltaMemory | None,
        x: Float[Array, "R T D"],
        segments: int,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        """What attention sees within its window, and the memory behind it."""
        heads = attention.heads_of(x)
        mixed = attention.mixed(*heads, self.places, seeds)
        if memory is not None:
            mixed = mixed + memory(x, *heads, self.places.segment, segments)
        return attention.out(mixed.reshape(x.shape))

    def remember(self, memory: SlotMemory, x: Float[Array, "R T D"], segments: int) -> Float[Array, "R T D"]:
        return memory(x, self.places.segment, segments)


class Block(nnx.Module):
    """SASRec's block with whatever is switched on: attention or mixers, written memory, banks, then experts or
    feed-forward."""

    def __init__(self, key: jax.Array, config: MdrecConfig, spec: DatasetSpec) -> None:
        base = config.encoder
        self.config = config
        keys = jax.random.split(key, 4)
        more = jax.random.split(jax.random.fold_in(key, 1), 5)
        gain = base.output_gain
        self.attention_norm = Norm(base.dim, base.norm)
        window, kinds = base.max_length, config.mixers.kinds
        self.attention = (
            Attention(keys[0], base.dim, base.heads, window=window, rate=base.attention_dropout, output_gain=gain)
            if not kinds or "attention" in kinds
            else None
        )
        mixers_key = jax.random.fold_in(key, 2)
        self.mixers = (
            Mixers(mixers_key, base.dim, spec, config.mixers, window=window, output_gain=gain) if kinds else None
        )
        self.ffn_norm = Norm(base.dim, base.norm)
        routed = config.experts.each > 0
        self.ffn = None if routed else FeedForward(keys[1], base.dim, base.ffn_width, base.activation, output_gain=gain)
        self.experts = Experts(more[0], base.dim, spec, config.experts, output_gain=gain) if routed else None
        gates = (Linear(key, base.dim, base.dim, ("embed", "embed")) for key in keys[2:])
        self.attention_gate, self.ffn_gate = gates if base.gated_residual else (None, None)
        self.banks = BankReads(more[1], base.dim, config.banks, output_gain=gain) if config.banks.used else None
        written = config.written
        self.delta = DeltaMemory(more[2], base.dim, base.heads, written) if written.mode == "delta" else None
        self.slots_norm = Norm(base.dim, base.norm) if written.mode == "erase" else None
        self.slots = SlotMemory(more[2], base.dim, written, output_gain=gain) if written.mode == "erase" else None
        rank = config.views.domain_rank
        self.paths = DomainPaths(more[3], base.dim, spec.num_domains + 1, rank) if rank else None
        loop = config.loop
        self.halting = Halting(more[4], base.dim, loop) if loop.most > 1 else None
        change_keys, changes = jax.random.split(jax.random.fold_in(more[4], 1)), loop.most > 1 and loop.rank > 0
        self.attention_change, self.ffn_change = (
            PassChange(key, base.dim, loop) if changes else None for key in change_keys
        )

    def __call__(
        self,
        x: Float[Array, "R T D"],
        view: View | Step,
        shared: SharedBank | None,
        segments: int,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""], Trace]:
        """The new states, the losses of routers and halting (a sum over tokens), and what was done with each token."""
        if self.halting is None:
            return self.once(x, view, shared, segments, seeds)
        losses, traces = [], []

        def change(x: Float[Array, "R T D"], number: int) -> Float[Array, "R T D"]:
            y, loss, trace = self.once(x, view, shared, segments, fold_seeds(seeds, jnp.uint32(100 + number)), number)
            losses.append(loss)
            traces.append(trace)
            return y - x

        mixed, passes = self.halting(change, x)
        most, real = self.config.loop.most, view.places.segment > 0
        ponder = jnp.where(real, (passes - 1.0) / (most - 1), 0.0).sum().astype(jnp.float32)
        trace = mean_of(traces) | {"loops": jax.lax.stop_gradient(passes)}
        return mixed, sum(losses, jnp.float32(0.0)) / most + self.config.loop.ponder * ponder, trace

    def attended(self, x: Float[Array, "R T D"], number: int | Array) -> Float[Array, "R T D"]:
        """What the attention of a pass reads."""
        y = self.attention_norm(x)
        return y if self.attention_change is None else self.attention_change(y, number)

    def once(
        self,
        x: Float[Array, "R T D"],
        view: View | Step,
        shared: SharedBank | None,
        segments: int,
        seeds: UInt32[Array, "R 2"] | None,
        number: int | Array = 0,
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""], Trace]:
        """One pass; `number` from 0."""
        base, total, trace = self.config.encoder, jnp.float32(0.0), {}
        y = self.attended(x, number)
        out = None if self.attention is None else view.attend(self.attention, self.delta, y, segments, seeds)
        if self.mixers is not None:
            out, loss, routed = self.mixers(y, out, view.places.segment, view.context)
            total, trace = total + loss, trace | trace_of("mixers", routed)
        assert out is not None
        x = x + dropout(gated(self.attention_gate, y, out), seeds, 1, base.residual_dropout)
        if self.slots is not None and self.slots_norm is not None:
            y = view.remember(self.slots, self.slots_norm(x), segments)
            x = x + dropout(y, seeds, 4, base.residual_dropout)
        if self.banks is not None:
            x = x + dropout(self.banks(x, shared), seeds, 5, base.residual_dropout)
        y = self.ffn_norm(x)
        y = y if self.ffn_change is None else self.ffn_change(y, number)
        if self.experts is not None:
            out, loss, routed = self.experts(y, view.places.segment, view.context)
            total, trace = total + loss, trace | trace_of("experts", routed)
        else:
            assert self.ffn is not None
            out = self.ffn(y, seeds, site=2, rate=base.ffn_dropout)
        new = dropout(gated(self.ffn_gate, y, out), seeds, 3, base.residual_dropout)
        if self.paths is not None:
            new = new + dropout(self.paths(y, view.path), seeds, 6, base.residual_dropout)
        return x + new, total, trace
