"""SASRec: a causal self-attention encoder over a user's events, scored by inner products with the item table.

Kang and McAuley 2018 (arXiv 1808.09781), section III, with what later work found to be better: norms before the
sub-layers, a wider feed-forward layer, SwiGLU, rotary positions, gated residuals (LiGR, arXiv 2502.03417; with SASRec's
objective it is eSASRec, arXiv 2508.06450), and whatever loss the run's objective names.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt32

from mdrec_jax.models import items
from mdrec_jax.models.attention import Attention, Places, rotary_angles
from mdrec_jax.models.checks import check, check_fields, check_heads
from mdrec_jax.models.dates import Dates, check_dates
from mdrec_jax.models.items import Inputs, ScoreKind
from mdrec_jax.models.layers import (
    SCAN_FROM_LAYERS,
    Activation,
    FeedForward,
    Linear,
    Norm,
    NormKind,
    dropout,
    fold_seeds,
    run_stack,
    stack,
)
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.types import Batch, DatasetSpec, Encoded


@dataclass(frozen=True)
class SasrecConfig:
    """What a SASRec model is. Raises ConfigError, naming the field, for a value out of its range.

    Args:
        dim: width D of the model and of the item table.
        layers: blocks.
        heads: attention heads; must divide `dim`.
        ffn_multiple: width of the feed-forward layer over `dim`.
        activation: of the feed-forward layer; `swiglu` has a third matrix, so 2/3 of a multiple costs the same.
        positions: `learned` adds an embedding of the event's position to its input, `rotary` turns queries and keys
            by it, `none` leaves the order to the causal mask.
        max_length: how many events back a token sees, itself counted; the longest segment, as a rule. Of `learned`
            positions there are as many, and later ones share the last.
        norm: layer norm, or RMS norm, before each sub-layer and at the end.
        input_norm: norm the sum of the input embeddings too.
        gated_residual: multiply each sub-layer's output by a sigmoid gate of its input (LiGR).
        domain_embedding, event_embedding: add an embedding of the event's domain, behaviour type, to its input.
        date_days: days between the knots of an embedding of the event's date, which is added to its input; 0 has none.
        embedding_dropout: on the inputs of the first block.
        attention_dropout: on the attention weights.
        ffn_dropout: inside the feed-forward layer, after the activation.
        residual_dropout: on what each sub-layer adds.
        embedding_scale: an item vector is multiplied by it when it is read as an input.
        init_scale: standard deviation of the initial embeddings.
        output_scale: multiplies the initial output maps of sub-layers, beside (2 `layers`)^-1/2; where a block is
            looped its passes add up, and N^-1/2 for N passes keeps the states as large.
        scores: logits are inner products, or cosines divided by `temperature`.
        temperature: of `cosine` scores.
        scan_layers: run the blocks as one compiled loop; `auto` does so from `SCAN_FROM_LAYERS` blocks on.
        remat: keep only the blocks' inputs for the backward pass.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    ffn_multiple: float = 4.0
    activation: Activation = "gelu"
    positions: Literal["learned", "rotary", "none"] = "learned"
    max_length: int = 50
    norm: NormKind = "layernorm"
    input_norm: bool = False
    gated_residual: bool = False
    domain_embedding: bool = False
    event_embedding: bool = False
    date_days: float = 0.0
    embedding_dropout: float = 0.2
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    residual_dropout: float = 0.2
    embedding_scale: float = 1.0
    init_scale: float = 0.02
    output_scale: float = 1.0
    scores: ScoreKind = "dot"
    temperature: float = 0.05
    scan_layers: Literal["auto", "on", "off"] = "auto"
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("dim", "layers", "heads", "max_length"),
            rates=("embedding_dropout", "attention_dropout", "ffn_dropout", "residual_dropout"),
            positives=("ffn_multiple", "embedding_scale", "init_scale", "output_scale", "temperature"),
        )
        days = self.date_days
        check("date_days", days, math.isfinite(days) and days >= 0, "a finite number of days, 0 for none")
        check_heads(self.dim, self.heads)
        width = self.dim // self.heads
        check("positions", self.positions, self.positions != "rotary" or width % 2 == 0, "heads of an even width")

    @property
    def output_gain(self) -> float:
        """What the initial maps of sub-layers' outputs are multiplied by: they add up along the depth, and so their sum
        stays as large as one block's (GPT-2's rule)."""
        return self.output_scale * (2 * self.layers) ** -0.5

    @property
    def ffn_width(self) -> int:
        """F: the feed-forward layer's width, a multiple of 8."""
        return max(8, 8 * round(self.dim * self.ffn_multiple / 8))

    @property
    def scanned(self) -> bool:
        """Whether the blocks run as one compiled loop."""
        return self.scan_layers == "on" or (self.scan_layers == "auto" and self.layers >= SCAN_FROM_LAYERS)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), each sub-layer behind a gate if there is one."""

    def __init__(self, key: jax.Array, config: SasrecConfig) -> None:
        keys = jax.random.split(key, 4)
        self.ffn_rate, self.residual_rate = config.ffn_dropout, config.residual_dropout
        gain = config.output_gain
        self.attention_norm = Norm(config.dim, config.norm)
        self.attention = Attention(
            keys[0],
            config.dim,
            config.heads,
            window=config.max_length,
            rate=config.attention_dropout,
            output_gain=gain,
        )
        self.ffn_norm = Norm(config.dim, config.norm)
        self.ffn = FeedForward(keys[1], config.dim, config.ffn_width, config.activation, output_gain=gain)
        gates = (Linear(key, config.dim, config.dim, ("embed", "embed")) for key in keys[2:])
        self.attention_gate, self.ffn_gate = gates if config.gated_residual else (None, None)

    def __call__(
        self, x: Float[Array, "R T D"], places: Places, seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        y = self.attention_norm(x)
        y = gated(self.attention_gate, y, self.attention(y, places, seeds))
        x = x + dropout(y, seeds, 1, self.residual_rate)
        y = self.ffn_norm(x)
        y = gated(self.ffn_gate, y, self.ffn(y, seeds, site=2, rate=self.ffn_rate))
        return x + dropout(y, seeds, 3, self.residual_rate)


def gated(gate: Linear | None, x: Float[Array, "R T D"], y: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
    """y * sigmoid(gate(x)), or y without a gate."""
    return y if gate is None else y * jax.nn.sigmoid(gate(x))


class Encoder(nnx.Module):
    """Everything of SASRec but the item table."""

    def __init__(self, key: jax.Array, config: SasrecConfig, spec: DatasetSpec) -> None:
        input_key, block_key = jax.random.split(key)
        self.config = config
        self.inputs = Inputs(
            input_key,
            config.dim,
            positions=config.max_length if config.positions == "learned" else 0,
            domains=spec.num_domains if config.domain_embedding else 0,
            events=spec.num_events if config.event_embedding else 0,
            item_scale=config.embedding_scale,
            scale=config.init_scale * config.embedding_scale,
            dates=dates_of(input_key, config, spec),
        )
        self.input_norm = Norm(config.dim, config.norm) if config.input_norm else None
        self.blocks = stack(lambda key: Block(key, config), block_key, config.layers)
        self.final_norm = Norm(config.dim, config.norm)

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        config = self.config
        x = self.inputs(item, batch)
        x = x if self.input_norm is None else self.input_norm(x)
        x = dropout(x, seeds, 0, config.embedding_dropout)
        rotation = None
        if config.positions == "rotary":
            rotation = rotary_angles(jnp.asarray(batch.position), config.dim // config.heads)
        places = Places(jnp.asarray(batch.segment), rotation)

        def step(block: Block, x: Float[Array, "R T D"], layer: jax.Array) -> tuple[Float[Array, "R T D"], None]:
            return block(x, places, fold_seeds(seeds, layer)), None

        x, _ = run_stack(self.blocks, step, x, layers=config.layers, scan=config.scanned, remat=config.remat)
        return Encoded(items.scored_states(self.final_norm(x), config.scores, config.temperature), {}, {})


def dates_of(key: jax.Array, config: SasrecConfig, spec: DatasetSpec) -> Dates | None:
    """The embedding of dates that a configuration asks for."""
    if not config.date_days:
        return None
    scale = config.init_scale * config.embedding_scale
    return Dates(jax.random.fold_in(key, 3), config.dim, spec, days=config.date_days, scale=scale)


def make_sasrec(config: SasrecConfig, spec: DatasetSpec) -> TiedModel:
    """SASRec for a data set.

    Raises:
        InputError: for data without an order of events, or without times where dates are wanted.
    """
    check_dates(config.date_days, spec)
    return TiedModel(config, spec, Encoder)
