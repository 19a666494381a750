"""What a recommender is: its sizes, and which of its parts are on."""

from dataclasses import dataclass, field
from typing import Literal

from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.layers.checks import check, check_fields, check_heads
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.models.layers.linear import Activation
from mdrec_jax.models.layers.loop import LoopConfig
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.models.views import ViewsConfig


@dataclass(frozen=True)
class RecommenderConfig:
    """What a recommender is. Raises ConfigError, naming the field, for a value out of its range.

    Args:
        dim: width D of the model and of the item table.
        layers: blocks.
        heads: attention heads; must divide `dim`.
        ffn_multiple: width of the feed-forward layer over `dim`.
        activation: of the feed-forward layer; `swiglu` has a third matrix, so 2/3 of a multiple costs the same.
        positions: `learned` adds an embedding of the event's position to its input, `rotary` turns queries and keys
            by it, `none` leaves the order to the causal mask.
        attention_window: how many events back a token sees, itself counted. Of `learned` positions there are as many,
            and later ones share the last.
        domain_embedding: add an embedding of the event's domain to its input.
        event_embedding: add an embedding of the event's behaviour type to its input.
        date_days: days between the knots of an embedding of the event's date, which is added to its input; 0 has none.
        embedding_dropout: on the inputs of the first block.
        inner_dropout: on the attention weights, and inside the feed-forward layer, after the activation.
        residual_dropout: on what each sub-layer adds.
        embedding_scale: an item vector is multiplied by it when it is read as an input.
        init_scale: standard deviation of the initial embeddings.
        temperature: logits are cosines over it; inner products where it is 0.
        remat: keep only the blocks' inputs for the backward pass.
        views: the in-domain view and the domains' own paths.
        loop: how often a block may be applied.
        learned_memory: banks that every token reads.
        user_memory: behind attention's window, a matrix a head that is written and read with attention's own queries
            and keys.
        mixers: routed mixers in place of attention alone.
        experts: routed experts in place of the dense feed-forward layer.
        disentangle: a shared and a specific code in place of the views' fusion.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 1
    ffn_multiple: float = 4.0
    activation: Activation = "gelu"
    positions: Literal["learned", "rotary", "none"] = "learned"
    attention_window: int = 50
    domain_embedding: bool = False
    event_embedding: bool = False
    date_days: float = 0.0
    embedding_dropout: float = 0.2
    inner_dropout: float = 0.0
    residual_dropout: float = 0.2
    embedding_scale: float = 1.0
    init_scale: float = 0.02
    temperature: float = 0.0
    remat: bool = False
    views: ViewsConfig = field(default_factory=ViewsConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    learned_memory: LearnedMemoryConfig = field(default_factory=LearnedMemoryConfig)
    user_memory: bool = False
    mixers: MixersConfig = field(default_factory=MixersConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    disentangle: DisentangleConfig = field(default_factory=DisentangleConfig)

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("dim", "layers", "heads", "attention_window"),
            rates=("embedding_dropout", "inner_dropout", "residual_dropout"),
            positives=("ffn_multiple", "embedding_scale", "init_scale"),
            none_below_zero=("date_days", "temperature"),
        )
        check_heads(self.dim, self.heads)
        width = self.dim // self.heads
        check("positions", self.positions, self.positions != "rotary" or width % 2 == 0, "heads of an even width")
        blind = bool(self.mixers.kinds) and "attention" not in self.mixers.kinds
        kept = not (blind and self.user_memory)
        check("user_memory", self.user_memory, kept, "False: no mixer is attention, whose keys it writes")
        codes = self.disentangle.codes
        check("disentangle.codes", codes, self.views.in_domain or not codes, "False without views.in_domain")

    @property
    def kind(self) -> str:
        """As tables name it: `mdrec` with any part on, else `sasrec`."""
        parts = self.views.in_domain, self.loop.max_steps > 1, self.learned_memory.used, self.user_memory, self.gates
        return "mdrec" if any(parts) else "sasrec"

    @property
    def output_gain(self) -> float:
        """What the initial maps of sub-layers' outputs are multiplied by: they add up along the depth and over a loop's
        passes, and so their sum stays as large as one block's (GPT-2's rule)."""
        return self.loop.max_steps**-0.5 * (2 * self.layers) ** -0.5

    @property
    def ffn_width(self) -> int:
        """F: the feed-forward layer's width, a multiple of 8."""
        return max(8, 8 * round(self.dim * self.ffn_multiple / 8))

    @property
    def gates(self) -> dict[str, tuple[str, ...]]:
        """The routed layers that are on, and the names of what each chooses from."""
        experts = self.experts.names if self.experts.number else ()
        return {name: each for name, each in (("mixers", self.mixers.kinds), ("experts", experts)) if each}
