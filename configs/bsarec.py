"""BSARec (Shin et al. 2024, arXiv 2312.10325) with the batches, the full softmax and the schedule of `beauty`, its
published settings for Beauty (cutoff 5, alpha .7, dropout .5) and cosine scores: a peer to compare with.

mdrec train bsarec --data data/beauty
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.models.bsarec import BsarecConfig


def config() -> RunConfig:
    return _filtered(load_preset("beauty"), BsarecConfig(dim=128, embedding_scale=16.0, temperature=0.07))


def smoke() -> RunConfig:
    return _filtered(load_preset("beauty", smoke=True), BsarecConfig(dim=16, layers=1))


def _filtered(base: RunConfig, model: BsarecConfig) -> RunConfig:
    return replace(base, model=model, cooccurrence={"weight": 0.0})
