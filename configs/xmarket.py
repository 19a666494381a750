"""Seven countries' Electronics as FOREC (CIKM 2021) prepared them: users of their own, items in common.

mdrec prepare xmarket FOLDER --out data/xmarket --tie file
mdrec train xmarket --data data/xmarket
"""

from mdrec_jax.config import RunConfig, load_preset, replace


def config() -> RunConfig:
    return replace(load_preset("abxi"), train={"epochs": 24, "evaluate_every": 4, "protocol": "uniform99"})


def smoke() -> RunConfig:
    return replace(load_preset("abxi", smoke=True), train={"protocol": "uniform99"})
