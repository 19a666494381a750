"""gSASRec (Petrov & Macdonald 2023, arXiv 2308.07192): SASRec with inner products, trained by gBCE with its defaults
(256 negatives, t = .75). Negatives are drawn for each row of a batch and shared by its targets; the published trainer
draws them for each target. The rates are higher than its .001, since these runs are shorter (on validation).

mdrec train gsasrec --data data/beauty
"""

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.objectives.next_item import NextItemConfig


def config() -> RunConfig:
    return _calibrated(load_preset("beauty"), RecommenderConfig(dim=128, layers=2, heads=2, attention_window=50))


def smoke() -> RunConfig:
    return _calibrated(load_preset("beauty", smoke=True), RecommenderConfig(dim=16, layers=1, attention_window=50))


def _calibrated(base: RunConfig, model: RecommenderConfig) -> RunConfig:
    loss = NextItemConfig(kind="gbce", negatives=256)
    optim = {"dense": {"learning_rate": 2e-3}, "table": {"learning_rate": 3e-3}}
    return replace(base, model=model, loss=loss, optim=optim, cooccurrence={"weight": 0.0})
