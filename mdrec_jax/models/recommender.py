"""The recommender: one encoder over all domains, of parts that can each be switched off. All off, it is SASRec.

SASRec (Kang and McAuley 2018, arXiv 1808.09781, section III) with what later work found to be better: norms before the
sub-layers, a wider feed-forward layer, SwiGLU, rotary positions (eSASRec, arXiv 2508.06450), and whatever loss the
run's objective names. What can be put on:

two views of the same tokens, with low-rank paths of the domains        views.py
a shared and a specific code                                            disentangle.py
loops: a block is applied until a token stops                           layers/loop.py
learned memory, and a user memory behind attention's window             layers/learned_memory.py, layers/user_memory.py
routed mixers: attention, convolution, context                          layers/mixers.py
feed-forward experts of several widths                                  layers/experts.py
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from mdrec_jax.models.block import Block
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import Disentangled, TrainingCodes
from mdrec_jax.models.encoded import Encoded, Trace, Views
from mdrec_jax.models.items import Inputs, check_dates, scored_states
from mdrec_jax.models.layers.attention import rotary_angles
from mdrec_jax.models.layers.context import context_of
from mdrec_jax.models.layers.dropout import Fold, Site, dropout, fold_seeds
from mdrec_jax.models.layers.learned_memory import MemoryBank
from mdrec_jax.models.layers.mixers import check_context
from mdrec_jax.models.layers.norm import Norm
from mdrec_jax.models.layers.stack import run_stack, stack
from mdrec_jax.models.sequence import Packed
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.models.views import HALVES, CrossDomain, Fusion, InDomain
from mdrec_jax.types import Batch, DatasetSpec


class Encoder(nnx.Module):
    """Everything but the item table."""

    def __init__(self, key: jax.Array, config: RecommenderConfig, spec: DatasetSpec) -> None:
        input_key, block_key = jax.random.split(key)
        bank_key, fusion_key = jax.random.split(jax.random.fold_in(key, 1))
        self.config, self.spec = config, spec
        self.inputs = Inputs(
            input_key,
            config.dim,
            spec,
            positions=config.attention_window if config.positions == "learned" else 0,
            domains=spec.num_domains if config.domain_embedding else 0,
            events=spec.num_events if config.event_embedding else 0,
            date_days=config.date_days,
            item_scale=config.embedding_scale,
            init_scale=config.init_scale,
        )
        self.blocks = stack(lambda key: Block(key, config, spec), block_key, config.layers)
        slots = config.learned_memory.shared
        self.shared_bank = MemoryBank(bank_key, slots, config.dim, scope="shared") if slots else None
        self.final_norm = None if config.views.in_domain else Norm(config.dim)
        self.fusion = _fusion(fusion_key, config, spec) if config.views.in_domain else None

    @property
    def recalibrates(self) -> bool:
        """Whether anything is worked out in closed form between validations."""
        return self.config.disentangle.erase or self.config.disentangle.domain_whitening

    def recalibrate(self, codes: TrainingCodes) -> None:
        assert isinstance(self.fusion, Disentangled)
        self.fusion.recalibrate(codes)

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        segments, domains = batch.segment_user.shape[1], self.spec.num_domains
        domain, target_domain = jnp.asarray(batch.domain), jnp.asarray(batch.target_domain)
        mixed, trace = self.view(item, batch, jnp.zeros_like(domain), segments, seeds)
        traces = {"mixed": trace}
        if self.fusion is None:
            assert self.final_norm is not None
            return Encoded(self._scored(self.final_norm(mixed)), traces=traces)
        view = InDomain.of(batch, domains)
        path, drawn = 1 + jnp.asarray(view.batch.domain), fold_seeds(seeds, Fold.IN_DOMAIN)
        own, trace = self.view(view.into(item), view.batch, path, segments * domains, drawn)
        traces["in_domain"] = replace(trace, place=view.place)
        own = view.previous(own, jnp.asarray(batch.previous_in_target_domain), self.fusion.null.get_value())
        if isinstance(self.fusion, Disentangled):
            h, codes = self.fusion(mixed, own, domain, target_domain, seeds)
            if self.config.disentangle.cross_domain and seeds is not None:
                code, traces["cross_domain"] = self._cross_domain(self.fusion, item, batch, seeds)
                codes = replace(codes, cross_domain=code)
            alone = codes.specific
        else:
            h, codes = self.fusion(mixed, own, target_domain, seeds), None
            alone = self.fusion.alone(own, seeds)
        return Encoded(self._scored(h), Views(mixed, own, self._scored(alone)), codes, traces)

    def view(
        self,
        item: Float[Array, "R T D"],
        batch: Batch,
        path: Int32[Array, "R T"],
        segments: int,
        seeds: UInt32[Array, "R 2"] | None,
    ) -> tuple[Float[Array, "R T D"], Trace]:
        """One view's states before the last norm, and what its layers did."""
        config, rotation = self.config, None
        if config.positions == "rotary":
            rotation = rotary_angles(jnp.asarray(batch.position), config.dim // config.heads)
        segment = jnp.asarray(batch.segment)
        sequence = Packed(segment, rotation, path, context_of(batch, self.spec), segments)

        def step(block: Block, x: Float[Array, "R T D"], layer: jax.Array) -> tuple[Float[Array, "R T D"], Trace]:
            return block(x, sequence, self.shared_bank, fold_seeds(seeds, layer))

        x = self.embedded(item, batch, seeds)
        x, trace = run_stack(self.blocks, step, x, layers=config.layers, remat=config.remat)
        return x, replace(trace, segment=segment)

    def embedded(
        self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        """What the first block reads."""
        return dropout(self.inputs(item, batch), seeds, Site.INPUT, self.config.embedding_dropout)

    def _cross_domain(
        self, fusion: Disentangled, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"]
    ) -> tuple[Float[Array, "R T D"], Trace]:
        """The shared code of what the user did in other domains, zero where that is nothing."""
        there, drawn = CrossDomain.of(batch, self.spec.num_domains, seeds), fold_seeds(seeds, Fold.CROSS_DOMAIN)
        path, segments = jnp.zeros_like(there.column), HALVES * batch.segment_user.shape[1]
        states, trace = self.view(there.view.into(item), there.view.batch, path, segments, drawn)
        states, known = there.states(states)
        domain = jnp.take_along_axis(jnp.asarray(batch.domain), jnp.maximum(there.column, 0), axis=1)
        code = fusion.shared(states, domain, jnp.asarray(batch.target_domain), drawn)
        return jnp.where(known, code, jnp.zeros((), states.dtype)), replace(trace, place=there.view.place)

    def state(
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
        match self.fusion:
            case Fusion() as fusion if own is not None:
                h = fusion(mixed, own, target_domain, None)
            case Disentangled() as fusion if own is not None:
                h = fusion(mixed, own, domain, target_domain, None)[0]
            case _:
                assert self.final_norm is not None
                h = self.final_norm(mixed)
        return self._scored(h)

    def _scored(self, h: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
        return scored_states(h, self.config.temperature)


def _fusion(key: jax.Array, config: RecommenderConfig, spec: DatasetSpec) -> Fusion | Disentangled:
    sizes = {"path_rank": config.views.path_rank, "rate": config.residual_dropout}
    if config.disentangle.codes:
        return Disentangled(key, config.dim, spec.num_domains, config.disentangle, **sizes)
    return Fusion(key, config.dim, spec.num_domains, **sizes)


def make_recommender(config: RecommenderConfig, spec: DatasetSpec) -> TiedModel:
    """The model for a data set.

    Raises:
        InputError: for data without an order of events, or without times where a part needs them.
    """
    check_context(config.mixers, spec)
    check_dates(config.date_days, spec)
    return TiedModel(config, spec, Encoder)
