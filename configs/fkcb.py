"""Food, Kitchen, Clothing and Beauty as FedDCSR (SDM 2024) prepared them, trained centrally: parameters are shared,
sequences are not.

    mdrec prepare fkcb FOLDER --out data/fkcb
    mdrec train fkcb --data data/fkcb
"""

from mdrec_jax.config import RunConfig, load_preset, replace

LONGEST = 16
"""Events of a sequence. They have no times."""


def config() -> RunConfig:
    return replace(_of_sequences(load_preset("abxi")), model={"dim": 192, "embedding_scale": 14.0})


def smoke() -> RunConfig:
    return replace(_of_sequences(load_preset("abxi", smoke=True)), train={"epochs": 0.2, "evaluate_every": 0.1})


def _of_sequences(base: RunConfig) -> RunConfig:
    """The recipe of the other data of several domains, wider for four times as many items: each is
    seen so seldom that co-occurrence tells more."""
    return replace(
        base,
        batching={"max_length": LONGEST},
        model={"attention_window": LONGEST, "date_days": 0.0},
        cooccurrence={"weight": 2.5},
        train={"epochs": 16, "evaluate_every": 4},
    )
