"""The flagship: one encoder over all domains, of parts that can each be switched off. All off, it is SASRec.

two views of the same tokens, with low-rank paths of the domains          models/views.py
adaptive depth: a block is applied until a token stops                    models/looping.py
external memory: learned banks, and a user's written memory               models/memory.py, models/delta_memory.py
routed mixers: attention, convolution, recurrence, context                models/mixers.py
feed-forward experts of several widths                                    models/experts.py
a shared and a specific code                                              models/disentangle.py
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from mdrec_jax.models import items
from mdrec_jax.models.attention import Places, rotary_angles
from mdrec_jax.models.block import Block, View
from mdrec_jax.models.context import context_of
from mdrec_jax.models.critic import Critic
from mdrec_jax.models.dates import check_dates
from mdrec_jax.models.disentangle import Disentangled
from mdrec_jax.models.elsewhere import HALVES, Elsewhere
from mdrec_jax.models.items import Inputs
from mdrec_jax.models.layers import Linear, Norm, dropout, fold_seeds, run_stack, stack
from mdrec_jax.models.mdrec_config import MdrecConfig
from mdrec_jax.models.memory import SharedBank
from mdrec_jax.models.mixers import check_context
from mdrec_jax.models.pure import parameter
from mdrec_jax.models.sasrec import dates_of
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.models.trace import Trace, statistics
from mdrec_jax.models.views import DomainPaths, InDomain
from mdrec_jax.types import Batch, DatasetSpec, Encoded


class Fusion(nnx.Module):
    """The state that a target's domain g is scored with (after ABXI, arXiv 2501.15118):

    norm(m + P m + C_g m) + norm(d + Q d), m the mixed state, d the state after the user's last event in g.
    """

    def __init__(self, key: jax.Array, config: MdrecConfig, spec: DatasetSpec) -> None:
        keys = jax.random.split(key, 4)
        dim, views = config.dim, config.views
        self.rate = config.encoder.residual_dropout
        self.mixed_norm, self.own_norm = Norm(dim, config.encoder.norm), Norm(dim, config.encoder.norm)
        maps = (Linear(key, dim, dim, ("embed", "embed"), gain=0.5) for key in keys[:2])
        self.mixed_map, self.own_map = maps if views.projectors else (None, None)
        rank = views.invariant_rank
        self.paths = DomainPaths(keys[2], dim, spec.num_domains, rank) if rank else None
        self.null = parameter(jnp.zeros((dim,)), "embed", group="vector", scope="private")

    def __call__(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"],
        target_domain: Int32[Array, "R T"],
        seeds: UInt32[Array, "R 2"] | None,
    ) -> Float[Array, "R T D"]:
        parts = mixed
        if self.mixed_map is not None:
            parts = parts + dropout(self.mixed_map(mixed), seeds, 7, self.rate)
        if self.paths is not None:
            parts = parts + dropout(self.paths(mixed, target_domain), seeds, 8, self.rate)
        return self.mixed_norm(parts) + self.alone(own, seeds)

    def alone(self, own: Float[Array, "R T D"], seeds: UInt32[Array, "R 2"] | None) -> Float[Array, "R T D"]:
        """The in-domain state's part of the sum: a state by itself, of what the user did in the target's domain."""
        if self.own_map is not None:
            own = own + dropout(self.own_map(own), seeds, 9, self.rate)
        return self.own_norm(own)


def _fusion(key: jax.Array, config: MdrecConfig, spec: DatasetSpec) -> Fusion | Disentangled:
    if not config.disentangle.codes:
        return Fusion(key, config, spec)
    base, rank = config.encoder, config.views.invariant_rank
    return Disentangled(
        key, base.dim, spec.num_domains, config.disentangle,
        norm=base.norm, rate=base.residual_dropout, path_rank=rank,
    )  # fmt: skip


class Encoder(nnx.Module):
    """Everything but the item table."""

    def __init__(self, key: jax.Array, config: MdrecConfig, spec: DatasetSpec) -> None:
        base = config.encoder
        input_key, block_key = jax.random.split(key)
        bank_key, fusion_key = jax.random.split(jax.random.fold_in(key, 1))
        self.config, self.spec, self.domains = config, spec, spec.num_domains
        self.inputs = Inputs(
            input_key,
            base.dim,
            positions=base.max_length if base.positions == "learned" else 0,
            domains=spec.num_domains if base.domain_embedding else 0,
            events=spec.num_events if base.event_embedding else 0,
            item_scale=base.embedding_scale,
            scale=base.init_scale * base.embedding_scale,
            dates=dates_of(input_key, base, spec),
        )
        self.input_norm = Norm(base.dim, base.norm) if base.input_norm else None
        self.blocks = stack(lambda key: Block(key, config, spec), block_key, base.layers)
        slots = config.banks.shared
        self.shared_bank = SharedBank(bank_key, slots, base.dim, scope="shared") if slots else None
        two = config.views.in_domain
        self.final_norm = None if two else Norm(base.dim, base.norm)
        self.fusion = _fusion(fusion_key, config, spec) if two else None
        self.critic = Critic(jax.random.fold_in(key, 2), base.dim) if config.views.critic else None

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        segments = batch.segment_user.shape[1]
        base = self.config.encoder
        h, loss, trace = self._encode(item, batch, jnp.zeros_like(jnp.asarray(batch.domain)), segments, seeds)
        losses, codes, details = {}, {}, {f"mixed/{name}": value for name, value in trace.items()}
        if self.fusion is None:
            assert self.final_norm is not None
            h = self.final_norm(h)
        else:
            view = InDomain.of(batch, self.domains)
            path = 1 + jnp.asarray(view.batch.domain)
            own_seeds = fold_seeds(seeds, jnp.uint32(1000))
            own, own_loss, trace = self._encode(view.into(item), view.batch, path, segments * self.domains, own_seeds)
            details |= {f"in_domain/{name}": jax.vmap(view.back)(value) for name, value in trace.items()}
            column = jnp.asarray(batch.previous_in_target_domain)
            last, loss = view.previous(own, column, self.fusion.null.get_value()), loss + own_loss
            codes = {"mixed": h, "in_domain": last}
            if self.critic is not None:
                codes["critic"] = self.critic(last)
            if isinstance(self.fusion, Disentangled):
                codes |= self.fusion.unrefreshed(h, last, jnp.asarray(batch.target_domain))
                h, pair, losses = self.fusion(h, last, view.back(own), batch, seeds)
                codes |= {"standard": pair.pop("standard")} if "standard" in pair else {}
                if self.config.disentangle.across and seeds is not None:
                    pair["across"], more = self._across(self.fusion, item, batch, seeds)
                    loss = loss + more
                codes |= {name: items.scored_states(x, base.scores, base.temperature) for name, x in pair.items()}
                codes["single"] = codes["specific"]
            else:
                single = self.fusion.alone(last, seeds)
                codes["single"] = items.scored_states(single, base.scores, base.temperature)
                h = self.fusion(h, last, jnp.asarray(batch.target_domain), seeds)
        shown = statistics(details, jnp.asarray(batch.segment), self.config.gates)
        h = items.scored_states(h, base.scores, base.temperature)
        return Encoded(h, {"parts": loss} | losses, shown, codes, self.config.disentangle.scored, details)

    def _across(
        self, fusion: Disentangled, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"]
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""]]:
        """The shared code of what the user did elsewhere, zero (which moves nothing) where that is nothing, and the
        losses of all layers."""
        there = Elsewhere.of(batch, self.domains, seeds)
        path, segments = jnp.zeros_like(there.column), HALVES * batch.segment_user.shape[1]
        drawn = fold_seeds(seeds, jnp.uint32(3000))
        states, loss, _ = self._encode(there.view.into(item), there.view.batch, path, segments, drawn)
        states, known = there.states(states)
        domain = jnp.take_along_axis(jnp.asarray(batch.domain), jnp.maximum(there.column, 0), axis=1)
        code = fusion.asked(states, domain, jnp.asarray(batch.target_domain), drawn)
        return jnp.where(known, code, jnp.zeros((), states.dtype)), loss

    def scored(
        self,
        mixed: Float[Array, "R T D"],
        own: Float[Array, "R T D"] | None,
        domain: Int32[Array, "R T"],
        target_domain: Int32[Array, "R T"],
    ) -> Float[Array, "R T D"]:
        """What items are scored with when serving, from the views' states before the last norm.

        Args:
            domain: of the last event.
        """
        base = self.config.encoder
        match self.fusion:
            case Fusion() as fusion if own is not None:
                h = fusion(mixed, own, target_domain, None)
            case Disentangled() as fusion if own is not None:
                h = fusion.state(mixed, own, domain, target_domain, None)[0]
            case _:
                assert self.final_norm is not None
                h = self.final_norm(mixed)
        return items.scored_states(h, base.scores, base.temperature)

    def embedded(
        self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        """What the first block reads."""
        x = self.inputs(item, batch)
        x = x if self.input_norm is None else self.input_norm(x)
        return dropout(x, seeds, 0, self.config.encoder.embedding_dropout)

    def _encode(
        self,
        item: Float[Array, "R T D"],
        batch: Batch,
        path: Int32[Array, "R T"],
        segments: int,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Float[Array, ""], Trace]:
        """One view's states before the last norm, the losses of all layers, and their traces."""
        base = self.config.encoder
        x = self.embedded(item, batch, seeds)
        rotation = None
        if base.positions == "rotary":
            rotation = rotary_angles(jnp.asarray(batch.position), base.dim // base.heads)
        view = View(Places(jnp.asarray(batch.segment), rotation), path, context_of(batch, self.spec))

        def step(block: Block, carry: tuple, layer: jax.Array) -> tuple[tuple, Trace]:
            x, total = carry
            x, loss, trace = block(x, view, self.shared_bank, segments, fold_seeds(seeds, layer))
            return (x, total + loss), trace

        start = (x, jnp.float32(0.0))
        (x, loss), trace = run_stack(self.blocks, step, start, layers=base.layers, scan=base.scanned, remat=base.remat)
        return x, loss, trace


def make_mdrec(config: MdrecConfig, spec: DatasetSpec) -> TiedModel:
    """The model for a data set.

    Raises:
        InputError: for data without an order of events, or without times where a part needs them.
    """
    check_context(config.mixers, spec)
    check_dates(config.encoder.date_days, spec)
    return TiedModel(config, spec, Encoder)
