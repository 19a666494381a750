"""Seven countries' Electronics as FOREC (CIKM 2021) prepared them: users of their own, items in common.

mdrec prepare xmarket FOLDER --out data/xmarket --tie file
mdrec train xmarket --data data/xmarket
"""

from mdrec_jax.config import RunConfig, load_preset, replace


def config() -> RunConfig:
    return _of_markets(load_preset("abxi"))


def smoke() -> RunConfig:
    return replace(_of_markets(load_preset("abxi", smoke=True)), train={"epochs": 0.5, "evaluate_every": 0.5})


def _of_markets(base: RunConfig) -> RunConfig:
    train = {"epochs": 24, "evaluate_every": 4, "protocol": "uniform99"}
    return replace(base, cooccurrence={"weight": 1.5}, train=train)
