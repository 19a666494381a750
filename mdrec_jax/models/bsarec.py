"""BSARec: attention beside a filter of the sequence's frequencies.

Shin et al. 2024 (arXiv 2312.10325), equations 6 to 11, post-norm. The filter keeps the low frequencies of the last N
events and scales the rest:

    L = the part of X below the cutoff,  F = LN(X + L + beta^2 (X - L)),  block: alpha F + (1 - alpha) LN(X + attention)

The published model pads each prefix to N and asks its last position alone. The discrete Fourier transform is circular,
so for that position L is a fixed weighted sum of the N events up to it (`low_pass`), and here every position has that
sum: all targets of a sequence are learned in one pass. With one block this is the published filter, but that padding
is nothing here; with more, an event's inner states read what came before it, where the published ones read the whole
prefix. Positions count from a sequence's first event, not back from the target.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32, UInt32

from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.items import Inputs, scored_states
from mdrec_jax.models.layers.attention import Attention
from mdrec_jax.models.layers.checks import check, check_fields, check_heads
from mdrec_jax.models.layers.dropout import Site, dropout, fold_seeds
from mdrec_jax.models.layers.linear import FeedForward
from mdrec_jax.models.layers.norm import Norm, at_least_float32
from mdrec_jax.models.layers.stack import run_stack, stack
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.types import Batch, DatasetSpec


@dataclass(frozen=True)
class BsarecConfig:
    """What a BSARec model is. Raises ConfigError, naming the field, for a value out of its range.

    Args:
        dim: width D of the model and of the item table.
        layers: blocks.
        heads: attention heads; must divide `dim`.
        attention_window: N, how many events back attention and the filter see; as many positions have an embedding.
        cutoff: frequencies 0 to `cutoff` / 2 (rounded down) of N are low; at most N.
        filter_share: alpha, the filter's share of a block.
        embedding_dropout: on the inputs of the first block.
        inner_dropout: on the attention weights, and inside the feed-forward layer.
        residual_dropout: on what each sub-layer adds.
        embedding_scale: an item vector is multiplied by it when it is read as an input.
        init_scale: standard deviation of the initial embeddings.
        temperature: logits are cosines over it; inner products where it is 0.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    attention_window: int = 50
    cutoff: int = 5
    filter_share: float = 0.7
    embedding_dropout: float = 0.5
    inner_dropout: float = 0.5
    residual_dropout: float = 0.5
    embedding_scale: float = 1.0
    init_scale: float = 0.02
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("dim", "layers", "heads", "attention_window"),
            rates=("embedding_dropout", "inner_dropout", "residual_dropout"),
            positives=("embedding_scale", "init_scale"),
            none_below_zero=("temperature",),
        )
        check_heads(self.dim, self.heads)
        check("cutoff", self.cutoff, 0 <= self.cutoff <= self.attention_window, "0 to model.attention_window")
        check("filter_share", self.filter_share, 0 <= self.filter_share <= 1, "0 to 1")


def low_pass(window: int, cutoff: int) -> Float32[np.ndarray, " N"]:
    """What the low frequencies of `window` values, zero where there is none, are at the last one: the weight of the
    value d places before it."""
    frequency = np.arange(cutoff // 2 + 1)
    # Every frequency but 0 and, for an even number of values, the highest stands for itself and its conjugate.
    both = np.where((frequency == 0) | (2 * frequency == window), 1.0, 2.0)
    waves = np.cos(2 * np.pi * np.outer(np.arange(window), frequency) / window)
    return (waves @ both / window).astype(np.float32)


class FrequencyFilter(nnx.Module):
    """LN(x + low + beta^2 (x - low)) over the last events of the segment."""

    def __init__(self, config: BsarecConfig) -> None:
        self.window, self.cutoff, self.rate = config.attention_window, config.cutoff, config.residual_dropout
        self.beta = parameter(jnp.ones((config.dim,)), "embed", group="vector")
        self.norm = Norm(config.dim)

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        column = np.arange(x.shape[1])
        back = column[:, None] - column
        seen = (back >= 0) & (back < self.window)
        weights = np.where(seen, low_pass(self.window, self.cutoff)[back % self.window], 0.0)
        mine = (segment[:, :, None] == segment[:, None, :]) & (segment > 0)[:, :, None]
        wide = at_least_float32(x)
        low = jnp.where(mine, jnp.asarray(weights, wide.dtype)[None], jnp.zeros((), wide.dtype)) @ wide
        gain = jnp.square(self.beta.get_value().astype(wide.dtype))[None, None, :]
        filtered = (low + gain * (wide - low)).astype(x.dtype)
        return self.norm(x + dropout(filtered, seeds, Site.FILTERED, self.rate))


class Block(nnx.Module):
    """The filter beside attention, then a feed-forward layer, each norm behind its residual."""

    def __init__(self, key: jax.Array, config: BsarecConfig) -> None:
        attention_key, ffn_key = jax.random.split(key)
        self.config = config
        self.filter = FrequencyFilter(config)
        self.attention = Attention(
            attention_key, config.dim, config.heads, window=config.attention_window, rate=config.inner_dropout,
            output_gain=1.0,
        )  # fmt: skip
        self.ffn = FeedForward(ffn_key, config.dim, 4 * config.dim, "gelu")
        self.mixed_norm, self.ffn_norm = Norm(config.dim), Norm(config.dim)

    def __call__(
        self, x: Float[Array, "R T D"], segment: Int32[Array, "R T"], seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        rate, share = self.config.residual_dropout, jnp.asarray(self.config.filter_share, x.dtype)
        heads = self.attention.mixed(*self.attention.heads_of(x), segment, None, seeds)
        attended = self.mixed_norm(x + dropout(self.attention.out(heads.reshape(x.shape)), seeds, Site.MIXED, rate))
        x = share * self.filter(x, segment, seeds) + (1 - share) * attended
        fed = self.ffn(x, seeds, rate=self.config.inner_dropout)
        return self.ffn_norm(x + dropout(fed, seeds, Site.FFN, rate))


class Encoder(nnx.Module):
    """Everything of BSARec but the item table."""

    def __init__(self, key: jax.Array, config: BsarecConfig, spec: DatasetSpec) -> None:
        input_key, block_key = jax.random.split(key)
        self.config = config
        self.inputs = Inputs(
            input_key, config.dim, spec, positions=config.attention_window, domains=0, events=0,
            item_scale=config.embedding_scale, init_scale=config.init_scale,
        )  # fmt: skip
        self.norm = Norm(config.dim)
        self.blocks = stack(lambda key: Block(key, config), block_key, config.layers)

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        segment = jnp.asarray(batch.segment)
        x = dropout(self.norm(self.inputs(item, batch)), seeds, Site.INPUT, self.config.embedding_dropout)

        def step(block: Block, x: Float[Array, "R T D"], number: jax.Array) -> tuple[Float[Array, "R T D"], None]:
            return block(x, segment, fold_seeds(seeds, number)), None

        x, _ = run_stack(self.blocks, step, x, layers=self.config.layers)
        return Encoded(scored_states(x, self.config.temperature))


def make_bsarec(config: BsarecConfig, spec: DatasetSpec) -> TiedModel:
    """BSARec for a data set.

    Raises:
        InputError: for data without an order of events.
    """
    return TiedModel(config, spec, Encoder)
