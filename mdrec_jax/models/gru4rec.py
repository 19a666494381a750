"""GRU4Rec: gated recurrent units over a user's events, scored by inner products with the item table.

Hidasi et al. 2016 (arXiv 1511.06939), with the cell of Cho et al. 2014 (arXiv 1406.1078), inputs and scores that share
one table (the "constrained embedding" of Hidasi & Karatzoglou 2018, arXiv 1706.03847), and whatever loss the run's
objective names. Where the published trainer cuts sequences into parallel mini-batches with a carried state, sequences
are packed here and a segment starts from a zero state.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt32

from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.items import Inputs, scored_states
from mdrec_jax.models.layers.checks import check_fields
from mdrec_jax.models.layers.dropout import Site, dropout, fold_seeds
from mdrec_jax.models.layers.linear import Linear, initial_matrix
from mdrec_jax.models.layers.stack import run_stack, stack
from mdrec_jax.models.nnx_bridge import parameter
from mdrec_jax.models.tied import TiedModel
from mdrec_jax.types import Batch, DatasetSpec


@dataclass(frozen=True)
class Gru4RecConfig:
    """What a GRU4Rec model is. Raises ConfigError, naming the field, for a value out of its range.

    Args:
        dim: width D of the state and of the item table.
        layers: recurrent layers, one on top of the other.
        domain_embedding, event_embedding: add an embedding of the event's domain, behaviour type, to its input.
        embedding_dropout: on the inputs of the first layer.
        residual_dropout: on each layer's output.
        embedding_scale: an item vector is multiplied by it when it is read as an input.
        init_scale: standard deviation of the initial embeddings.
        temperature: logits are cosines over it; inner products where it is 0.
    """

    dim: int = 64
    layers: int = 1
    domain_embedding: bool = False
    event_embedding: bool = False
    embedding_dropout: float = 0.2
    residual_dropout: float = 0.2
    embedding_scale: float = 1.0
    init_scale: float = 0.02
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("dim", "layers"),
            rates=("embedding_dropout", "residual_dropout"),
            positives=("embedding_scale", "init_scale"),
            none_below_zero=("temperature",),
        )


class GatedRecurrence(nnx.Module):
    """One layer: with reset gate r, update gate z and candidate n of input x and state h,

    r, z = sigmoid(x W + b + h U),  n = tanh(x W + b + r * (h U + c)),  h' = (1 - z) * n + z * h
    """

    def __init__(self, key: jax.Array, dim: int) -> None:
        input_key, state_key = jax.random.split(key)
        self.input = Linear(input_key, dim, 3 * dim, ("embed", "heads"))
        self.state = parameter(initial_matrix(state_key, dim, 3 * dim), "embed", "heads")
        self.candidate_bias = parameter(jnp.zeros((dim,)), "embed", group="vector")

    def __call__(self, x: Float[Array, "R T D"], first: Bool[Array, "R T"]) -> Float[Array, "R T D"]:
        """The states after each event; `first` marks where a segment starts, from a zero state."""
        kernel, bias = self.state.get_value().astype(x.dtype), self.candidate_bias.get_value().astype(x.dtype)[None, :]

        def step(h: Float[Array, "R D"], column: tuple[Array, Array]) -> tuple[Array, Array]:
            given, new = column
            h = jnp.where(new[:, None], jnp.zeros((), h.dtype), h)
            input_reset, input_update, input_candidate = jnp.split(given, 3, axis=-1)
            state_reset, state_update, state_candidate = jnp.split(h @ kernel, 3, axis=-1)
            update = jax.nn.sigmoid(input_update + state_update)
            reset = jax.nn.sigmoid(input_reset + state_reset)
            candidate = jnp.tanh(input_candidate + reset * (state_candidate + bias))
            h = (1 - update) * candidate + update * h
            return h, h

        columns = (jnp.swapaxes(self.input(x), 0, 1), first.T)
        return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(x[:, 0]), columns)[1], 0, 1)


class Encoder(nnx.Module):
    """Everything of GRU4Rec but the item table."""

    def __init__(self, key: jax.Array, config: Gru4RecConfig, spec: DatasetSpec) -> None:
        input_key, block_key = jax.random.split(key)
        self.config = config
        self.inputs = Inputs(
            input_key,
            config.dim,
            spec,
            positions=0,
            domains=spec.num_domains if config.domain_embedding else 0,
            events=spec.num_events if config.event_embedding else 0,
            item_scale=config.embedding_scale,
            init_scale=config.init_scale,
        )
        self.blocks = stack(lambda key: GatedRecurrence(key, config.dim), block_key, config.layers)

    def __call__(self, item: Float[Array, "R T D"], batch: Batch, seeds: UInt32[Array, "R 2"] | None) -> Encoded:
        config = self.config
        segment = jnp.asarray(batch.segment)
        first = jnp.diff(segment, axis=1, prepend=-1) != 0
        x = dropout(self.inputs(item, batch), seeds, Site.INPUT, config.embedding_dropout)

        def step(
            block: GatedRecurrence, x: Float[Array, "R T D"], number: jax.Array
        ) -> tuple[Float[Array, "R T D"], None]:
            return dropout(block(x, first), fold_seeds(seeds, number), Site.MIXED, config.residual_dropout), None

        x, _ = run_stack(self.blocks, step, x, layers=config.layers)
        return Encoded(scored_states(x, config.temperature))


def make_gru4rec(config: Gru4RecConfig, spec: DatasetSpec) -> TiedModel:
    """GRU4Rec for a data set.

    Raises:
        InputError: for data without an order of events.
    """
    return TiedModel(config, spec, Encoder)
