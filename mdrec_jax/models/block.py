"""One block: pre-norm attention (or mixers), learned memory, then feed-forward (or experts), each behind a residual.

With every part off it is SASRec's. A loop applies it several times (`layers/loop.py`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt32

from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.encoded import Trace
from mdrec_jax.models.layers.attention import Attention
from mdrec_jax.models.layers.dropout import Fold, Site, dropout, fold_seeds
from mdrec_jax.models.layers.experts import Experts
from mdrec_jax.models.layers.learned_memory import LearnedMemory, MemoryBank
from mdrec_jax.models.layers.linear import DomainPaths, FeedForward
from mdrec_jax.models.layers.loop import Halting, PassChange
from mdrec_jax.models.layers.mixers import Mixers
from mdrec_jax.models.layers.norm import Norm
from mdrec_jax.models.layers.router import Routed
from mdrec_jax.models.layers.user_memory import UserMemory
from mdrec_jax.models.sequence import Cached, Packed, Sequence
from mdrec_jax.types import DatasetSpec


class Block(nnx.Module):
    """x + mixed(norm(x)), + learned_memory(x), then x + feed_forward(norm(x)) + domain_paths(norm(x))."""

    def __init__(self, key: jax.Array, config: RecommenderConfig, spec: DatasetSpec) -> None:
        keys, more = jax.random.split(key), jax.random.split(jax.random.fold_in(key, 1), 5)
        dim, kinds, loop, gain = config.dim, config.mixers.kinds, config.loop, config.output_gain
        self.residual_dropout, self.ffn_dropout = config.residual_dropout, config.inner_dropout
        self.mixed_norm, self.ffn_norm = Norm(dim), Norm(dim)
        window, rate = config.attention_window, config.inner_dropout
        self.attention = (
            Attention(keys[0], dim, config.heads, window=window, rate=rate, output_gain=gain)
            if not kinds or "attention" in kinds
            else None
        )
        mixers_key = jax.random.fold_in(key, 2)
        self.mixers = Mixers(mixers_key, dim, spec, config.mixers, output_gain=gain) if kinds else None
        self.user_memory = UserMemory(more[2], dim, config.heads) if config.user_memory else None
        banks = config.learned_memory
        self.learned_memory = LearnedMemory(more[1], dim, banks, output_gain=gain) if banks.used else None
        routed, width = config.experts.number > 0, config.ffn_width
        self.ffn = None if routed else FeedForward(keys[1], dim, width, config.activation, output_gain=gain)
        self.experts = Experts(more[0], dim, spec, config.experts, output_gain=gain) if routed else None
        rank = config.views.path_rank
        self.paths = DomainPaths(more[3], dim, spec.num_domains + 1, rank) if rank else None
        self.halting = Halting(more[4], dim, loop) if loop.max_steps > 1 else None
        change_keys, changes = jax.random.split(jax.random.fold_in(more[4], 1)), loop.max_steps > 1 and loop.rank > 0
        self.mixed_change, self.ffn_change = (PassChange(key, dim, loop) if changes else None for key in change_keys)

    def __call__(
        self,
        x: Float[Array, "R T D"],
        sequence: Packed | tuple[Cached, ...],
        shared: MemoryBank | None,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Trace]:
        """The new states, and what was done with each token (without the axis of layers).

        Args:
            sequence: a packed batch, or for serving what each pass of the loop keeps.
            shared: the bank that all layers read.
        """
        if self.halting is None:
            x, routed = self.once(x, of_pass(sequence, 0), shared, seeds)
            return x, Trace(None, _stacked([routed]))
        found = []

        def change(x: Float[Array, "R T D"], number: int) -> Float[Array, "R T D"]:
            drawn = fold_seeds(seeds, Fold.FIRST_PASS + number)
            y, routed = self.once(x, of_pass(sequence, number), shared, drawn, number)
            found.append(routed)
            return y - x

        x, passes = self.halting(change, x)
        return x, Trace(passes, _stacked(found))

    def attended(self, x: Float[Array, "R T D"], number: int | Array) -> Float[Array, "R T D"]:
        """What the attention of a pass reads."""
        y = self.mixed_norm(x)
        return y if self.mixed_change is None else self.mixed_change(y, number)

    def once(
        self,
        x: Float[Array, "R T D"],
        sequence: Sequence,
        shared: MemoryBank | None,
        seeds: UInt32[Array, "R 2"] | None,
        number: int | Array = 0,
    ) -> tuple[Float[Array, "R T D"], dict[str, Routed]]:
        """One pass, and where its routers sent the tokens; `number` from 0."""
        rate, routed = self.residual_dropout, {}
        y = self.attended(x, number)
        out = None if self.attention is None else sequence.attend(self.attention, self.user_memory, y, seeds)
        if self.mixers is not None:
            out, routed["mixers"] = self.mixers(y, out, sequence.segment, sequence.context)
        assert out is not None
        x = x + dropout(out, seeds, Site.MIXED, rate)
        if self.learned_memory is not None:
            x = x + dropout(self.learned_memory(x, shared), seeds, Site.LEARNED_MEMORY, rate)
        y = self.ffn_norm(x)
        y = y if self.ffn_change is None else self.ffn_change(y, number)
        if self.experts is not None:
            out, routed["experts"] = self.experts(y, sequence.segment, sequence.context)
        else:
            assert self.ffn is not None
            out = self.ffn(y, seeds, rate=self.ffn_dropout)
        new = dropout(out, seeds, Site.FFN, rate)
        if self.paths is not None:
            new = new + dropout(self.paths(y, sequence.path), seeds, Site.DOMAIN_PATH, rate)
        return x + new, routed


def of_pass(sequence: Packed | tuple[Cached, ...], number: int) -> Sequence:
    """The tokens of a loop's pass: a packed batch is the same for all, caches are each pass's own."""
    return sequence[number] if isinstance(sequence, tuple) else sequence


def _stacked(passes: list[dict[str, Routed]]) -> dict[str, Routed]:
    return jax.tree.map(lambda *each: jnp.stack(each), *passes)
