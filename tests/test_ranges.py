"""The ends of every setting's range: what lies on the allowed side is taken, what lies beyond is refused by name."""

import math
import re
from typing import Any

import pytest

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.optim.optimiser import DenseConfig, OptimConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig

NAN, INF, LITTLE = math.nan, math.inf, 1e-9
WEIGHT = ((0, LITTLE, 1e6), (-LITTLE, INF, NAN))
RATE = ((LITTLE, 10.0), (0, -1e-3, NAN))
RANGES: dict[type, tuple[str, dict[str, tuple[tuple, tuple]]]] = {
    OptimConfig: (
        "optim",
        {"beta2": ((0, 1 - LITTLE), (-LITTLE, 1, NAN)), "weight_decay": ((0, 2.0), (-LITTLE, NAN))},
    ),
    DenseConfig: ("optim.dense", {"learning_rate": RATE, "clip_norm": ((0, 5.0), (-LITTLE, NAN))}),
    TableConfig: ("optim.table", {"learning_rate": RATE}),
    ScheduleConfig: ("optim.schedule", {"warmup_steps": ((0, 1), (-1,))}),
    NextItemConfig: ("loss", {"negatives": ((1, 2), (0, -1)), "noise": ((0, 1 - LITTLE), (-LITTLE, 1, NAN))}),
    ContrastiveConfig: (
        "objectives.contrastive",
        {"intra": WEIGHT, "inter": WEIGHT, "temperature": ((LITTLE, 1e6), (0, -1.0, INF, NAN))},
    ),
    DisentangleLossConfig: (
        "objectives.disentangle",
        {
            "shared_alone": WEIGHT,
            "specific_domain": WEIGHT,
            "mmd": WEIGHT,
            "adversary": WEIGHT,
            "sample": ((1, 2), (0, -1)),
        },
    ),
    TaxonomyConfig: ("objectives.taxonomy", {"weight": WEIGHT, "levels": ((1, 2), (0,))}),
    TransferConfig: ("objectives.transfer", {"weight": WEIGHT, "sharpness": WEIGHT}),
}
DEFAULTS: dict[type, dict[str, Any]] = {
    OptimConfig: {"beta2": 0.98, "weight_decay": 0.0},
    DenseConfig: {"learning_rate": 1e-3, "clip_norm": 0.0},
    TableConfig: {"rule": "adam", "learning_rate": 1e-3},
    ScheduleConfig: {"kind": "constant", "warmup_steps": 0},
    NextItemConfig: {
        "kind": "softmax", "softmax_over": "all", "negatives": 256, "sampler": "uniform", "noise": 0.0,
    },
    ContrastiveConfig: {"intra": 0.0, "inter": 0.0, "form": "decoupled", "temperature": 0.1},
    DisentangleLossConfig: {
        "shared_alone": 0.0, "specific_domain": 0.0, "mmd": 0.0, "adversary": 0.0, "sample": 16,
    },
    TaxonomyConfig: {"weight": 0.0, "levels": 3},
    TransferConfig: {"weight": 0.0, "sharpness": 1.0},
    Protocol: {
        "name": "full", "split": "test", "candidates": "full", "negatives": 0, "draws": 1, "replacement": False,
        "exclude": "sequence", "seed": 0, "file": None, "universe": "target_domain", "seen": "history", "ties": "half",
        "query_time_visible": False,
    },
}  # fmt: skip
"""What a preset that says nothing stands for: results that were published rest on it."""
FIELDS = [(kind, place, field, *ends) for kind, (place, table) in RANGES.items() for field, ends in table.items()]


@pytest.mark.parametrize(("kind", "place", "field", "taken", "refused"), FIELDS)
def test_a_range_ends_where_it_says(kind: type, place: str, field: str, taken: tuple, refused: tuple) -> None:
    for value in taken:
        assert getattr(kind(**{field: value}), field) == value
    for value in refused:
        with pytest.raises(ConfigError, match=rf"{re.escape(f'{place}.{field}')}(?!\w)") as told:
            kind(**{field: value})
        assert str(value) in str(told.value)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_default_changes_only_on_purpose(kind: type) -> None:
    made = kind()
    assert {name: getattr(made, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]


def test_the_robust_contrast_wants_scores_whose_exponential_is_a_number() -> None:
    """Its power of the largest score, .5 (1 / temperature + log 1025), stays below 80."""
    assert ContrastiveConfig(form="robust", temperature=1 / 153).form == "robust"
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        ContrastiveConfig(form="robust", temperature=1 / 154)
    # Other forms take no power of it.
    assert ContrastiveConfig(form="infonce", temperature=1e-3).temperature == 1e-3
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        ContrastiveConfig(form="robust", temperature=0.0)


def test_an_objective_is_used_where_a_weight_of_it_is_above_0() -> None:
    assert not ContrastiveConfig(form="infonce").used
    assert ContrastiveConfig(intra=LITTLE).used
    assert ContrastiveConfig(inter=LITTLE).used
    assert not DisentangleLossConfig(sample=4).used
    assert DisentangleLossConfig(adversary=LITTLE).used


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"candidates": "uniform", "negatives": 1}, None),
        ({"candidates": "uniform", "negatives": 0}, "negatives"),
        ({"candidates": "full", "negatives": 0}, None),
        ({"draws": 1}, None),
        ({"draws": 0}, "draws"),
        ({"seed": 0}, None),
        ({"seed": -1}, "seed"),
        ({"candidates": "fixed", "file": "list"}, None),
        ({"candidates": "fixed"}, "file"),
        ({"candidates": "fixed", "file": ""}, "file"),
        *(
            ({field: value}, None)
            for field, values in {
                "split": ("validation", "test"),
                "exclude": ("target", "history", "sequence"),
                "universe": ("target_domain", "all"),
                "seen": ("none", "train", "history"),
                "ties": ("half", "first", "last"),
            }.items()
            for value in values
        ),
        *(({field: "other"}, field) for field in ("split", "candidates", "exclude", "universe", "seen", "ties")),
    ],
)
def test_a_protocol_is_checked_field_by_field(fields: dict[str, Any], refused: str | None) -> None:
    if refused is None:
        made = Protocol(**fields).to_json()
        assert {name: made[name] for name in fields} == fields
        return
    with pytest.raises(InputError, match=rf"{refused}(?!\w)"):
        Protocol(**fields)
