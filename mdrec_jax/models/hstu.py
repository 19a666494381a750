"""HSTU: pointwise gated attention with relative position and time bias.

Zhai et al. 2024, "Actions Speak Louder than Words" (arXiv 2402.17152), equations 2 to 4:

    U, V, Q, K = split(SiLU(norm(X) W))
    A V = SiLU(Q K^T + bias(position, time)) V / N
    Y = (norm(A V) * U) W' + b + X

The bias of a pair (i, j) is a table's entry for the distance i - j plus a table's entry for the bucket of the time
between j and the *query's time* of i. In the published code the query's time is that of the event to be predicted,
which the model so gets to see; `query_time_visible` says whether it is here, and results carry the flag.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32
from mdrec_kernels.packed_attention import packed_attention

from mdrec_jax.errors import InputError
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.items import Inputs, scored_states
from mdrec_jax.models.layers.checks import check, check_fields, check_heads
from mdrec_jax.models.layers.dropout import Site, dropout, fold_seeds
from mdrec_jax.models.layers.linear import Linear
from mdrec_jax.models.layers.norm import Norm
from mdrec_jax.models.layers.stack import run_stack, stack
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.types import Batch, DatasetSpec


@dataclass(frozen=True)
class HstuConfig:
    """What an HSTU model is. Raises ConfigError, naming the field, for a value out of its range.

    Args:
        dim: width D of the model and of the item table.
        layers: blocks.
        heads: attention heads; must divide `dim`. Queries, keys, values and gates are `dim / heads` wide.
        positions: `learned` adds an embedding of the event's position to its input.
        attention_window: how many events back a token sees, itself counted; also N, what attention is divided by.
        position_bias: bias by distance; each block has a table of `attention_window` entries, shared by its heads.
        time_bias: bias by time; each block has a table of `time_buckets` entries, shared by its heads. Needs times.
        time_buckets: two for every doubling of the time; 64 hold any time.
        query_time_visible: look back from the time of the event to be predicted, not from that of the last one read.
        domain_embedding, event_embedding: add an embedding of the event's domain, behaviour type, to its input.
        embedding_dropout: on the inputs of the first block.
        residual_dropout: on the gated values, before a block's last linear map.
        embedding_scale: an item vector is multiplied by it when it is read as an input.
        init_scale: standard deviation of the initial embeddings.
        temperature: logits are cosines over it; inner products where it is 0.
        remat: keep only the blocks' inputs for the backward pass.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    positions: Literal["learned", "none"] = "learned"
    attention_window: int = 50
    position_bias: bool = True
    time_bias: bool = True
    time_buckets: int = 64
    query_time_visible: bool = False
    domain_embedding: bool = False
    event_embedding: bool = False
    embedding_dropout: float = 0.2
    residual_dropout: float = 0.2
    embedding_scale: float = 1.0
    init_scale: float = 0.02
    temperature: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("dim", "layers", "heads", "attention_window", "time_buckets"),
            rates=("embedding_dropout", "residual_dropout"),
            positives=("embedding_scale", "init_scale"),
            none_below_zero=("temperature",),
        )
        check_heads(self.dim, self.heads)
        visible_without_bias = self.query_time_visible and not self.time_bias
        check(
            "query_time_visible", self.query_time_visible, not visible_without_bias, "time_bias, which alone reads it"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Where and when each token stands: its segment, its own time, and the time that it looks back from."""

    segment: Int32[Array, "R T"]
    time: Int32[Array, "R T"]
    query_time: Int32[Array, "R T"]


def moments_of(batch: Batch, *, query_time_visible: bool) -> Moments:
    """The moments of a batch. A token without a next event looks back from its own time (times never fall)."""
    time = jnp.asarray(batch.time)
    query_time = jnp.maximum(time, jnp.asarray(batch.target_time)) if query_time_visible else time
    return Moments(jnp.asarray(batch.segment), time, query_time)


class Block(nnx.Module):
    """Equations 2 to 4 and the residual connection."""

    def __init__(self, key: jax.Array, config: HstuConfig) -> None:
        in_key, out_key = jax.random.split(key)
        self.config = config
        self.uvqk = Linear(in_key, config.dim, 4 * config.dim, ("embed", "heads"), bias=False)
        self.out = Linear(out_key, config.dim, config.dim, ("heads", "embed"), gain=config.layers**-0.5)
        self.position_bias = _bias(config.attention_window, "position") if config.position_bias else None
        self.time_bias = _bias(config.time_buckets, "bucket") if config.time_bias else None

    def __call__(
        self, x: Float[Array, "R T D"], moments: Moments, seeds: UInt32[Array, "R 2"] | None
    ) -> Float[Array, "R T D"]:
        config = self.config
        rows, columns, dim = x.shape
        norm = Norm(dim, affine=False)
        u, *vqk = jnp.split(jax.nn.silu(self.uvqk(norm(x))), 4, axis=-1)
        v, q, k = (part.reshape(rows, columns, config.heads, dim // config.heads) for part in vqk)
        mixed = packed_attention(
            q,
            k,
            v,
            moments.segment,
            mode="silu",
            window=config.attention_window,
            scale=1.0,
            normalizer=config.attention_window,
            position_bias=_table(self.position_bias),
            time_bias=_table(self.time_bias),
            time=moments.time,
            query_time=moments.query_time,
        )
        y = norm(mixed.reshape(rows, columns, dim)) * u
        return x + self.out(dropout(y, seeds, Site.MIXED, config.residual_dropout))


def _bias(length: int, axis: str) -> nnx.Param:
    return parameter(jnp.zeros((length,)), axis, group="vector")


def _table(bias: nnx.Param | None) -> Float[Array, "1 P"] | None:
    return None if bias is None else bias.get_value()[None, :]


class Encoder(nnx.Module):
    """Everything of HSTU but the item table."""

    def __init__(self, key: jax.Array, config: HstuConfig, spec: DatasetSpec) -> None:
        input_key, block_key = jax.random.split(key)
        self.config = config
        self.inputs = Inputs(
            input_key,
            config.dim,
            spec,
            positions=config.attention_window if config.positions == "learned" else 0,
            domains=spec.num_domains if config.domain_embedding else 0,
            events=spec.num_events if config.event_embedding else 0,
            item_scale=config.embedding_scale,
            init_scale=config.init_scale,
        )
        self.blocks = stack(lambda key: Block(key, config), block_key, config.layers)
        self.final_norm = Norm(config.dim)

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        config = self.config
        x = dropout(self.inputs(item, batch), seeds, Site.INPUT, config.embedding_dropout)
        moments = moments_of(batch, query_time_visible=config.query_time_visible)

        def step(block: Block, x: Float[Array, "R T D"], layer: jax.Array) -> tuple[Float[Array, "R T D"], None]:
            return block(x, moments, fold_seeds(seeds, layer)), None

        x, _ = run_stack(self.blocks, step, x, layers=config.layers, remat=config.remat)
        return Encoded(scored_states(self.final_norm(x), config.temperature))


def make_hstu(config: HstuConfig, spec: DatasetSpec) -> TiedModel:
    """HSTU for a data set.

    Raises:
        InputError: for data without an order of events, or without times when `time_bias` asks for them.
    """
    if config.time_bias and not spec.has_time:
        raise InputError(
            "hstu's time bias needs times, and this data set has none",
            column="model.time_bias",
            found=config.time_bias,
            expected="False, or a data set with times",
        )
    return TiedModel(config, spec, Encoder)
