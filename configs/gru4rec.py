"""GRU4Rec with the recipe of `beauty` (its batches, full softmax, cosine scores, schedule): a recurrent peer to compare
the attention models with.

mdrec train gru4rec --data data/beauty
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.models.gru4rec import Gru4RecConfig


def config() -> RunConfig:
    return _recurrent(load_preset("beauty"), dim=128)


def smoke() -> RunConfig:
    return _recurrent(load_preset("beauty", smoke=True), dim=16)


def _recurrent(base: RunConfig, dim: int) -> RunConfig:
    model = Gru4RecConfig(
        dim=dim, layers=1, embedding_dropout=0.5, residual_dropout=0.3, embedding_scale=16.0,
        temperature=0.07,
    )  # fmt: skip
    return replace(base, model=model, cooccurrence={"weight": 0.0})
