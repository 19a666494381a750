"""Food, Kitchen, Clothing and Beauty as FedDCSR (SDM 2024) prepared them, trained centrally: parameters are shared,
sequences are not.

    mdrec prepare fkcb FOLDER --out data/fkcb
    mdrec train fkcb --data data/fkcb
"""

from mdrec_jax.config import RunConfig, load_preset, replace


def config() -> RunConfig:
    return _without_dates(load_preset("abxi"))


def smoke() -> RunConfig:
    return replace(_without_dates(load_preset("abxi", smoke=True)), train={"epochs": 0.2, "evaluate_every": 0.1})


def _without_dates(base: RunConfig) -> RunConfig:
    """The recipe of the other data of several domains, for files that have no times and sequences of 16 items."""
    return replace(
        base,
        batching={"max_length": 16, "horizon": 3},
        model={"max_length": 16, "date_days": 0.0},
        train={"epochs": 16, "evaluate_every": 4},
    )
