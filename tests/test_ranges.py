"""The ends of every setting's range: what lies on the allowed side is taken, what lies beyond is refused by name."""

import math
import re
from typing import Any

import pytest

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.denoise import DenoiseConfig
from mdrec_jax.objectives.infomax import InfomaxConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.optim.optimiser import DenseConfig, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig

NAN, INF, LITTLE = math.nan, math.inf, 1e-9
WEIGHT = ((0, LITTLE, 1e6), (-LITTLE, INF, NAN))
RATES = {
    "learning_rate": ((LITTLE, 10.0), (0, -1e-3, NAN)),
    "beta1": ((0, 1 - LITTLE), (-LITTLE, 1, NAN)),
    "beta2": ((0, 1 - LITTLE), (-LITTLE, 1, NAN)),
    "epsilon": ((1e-12,), (0, -1e-8, NAN)),
    "weight_decay": ((0, 2.0), (-LITTLE, NAN)),
}
RANGES: dict[type, tuple[str, dict[str, tuple[tuple, tuple]]]] = {
    DenseConfig: ("optim.dense", RATES | {"clip_norm": ((0, 5.0), (-LITTLE, NAN))}),
    TableConfig: ("optim.table", RATES),
    ScheduleConfig: (
        "optim.schedule",
        {"warmup_steps": ((0, 1), (-1,)), "final": ((0, 1), (-LITTLE, 1 + LITTLE, NAN))},
    ),
    NextItemConfig: (
        "loss",
        {
            "negatives": ((1, 2), (0, -1)),
            "popularity_power": ((0, 3.0), (-LITTLE, NAN)),
            "calibration": ((0, 1), (-LITTLE, 1 + LITTLE, NAN)),
        },
    ),
    DenoiseConfig: (
        "loss.denoise",
        {
            "trim": ((0, 1 - LITTLE), (-LITTLE, 1, NAN)),
            "trim_steps": ((1, 2), (0,)),
            "power": ((LITTLE, 1), (0, 1 + LITTLE, NAN)),
            "reverse": ((LITTLE, 1e6), (0, INF, NAN)),
            "noise": ((LITTLE, 1 - LITTLE), (0, 1, NAN)),
        },
    ),
    ContrastiveConfig: (
        "objectives.contrastive",
        {
            "intra": WEIGHT,
            "inter": WEIGHT,
            "temperature": ((LITTLE, 1e6), (0, -1.0, INF, NAN)),
            "negatives": ((2, 3), (1, 0)),
            "robust_power": ((LITTLE, 1), (0, 1 + LITTLE, NAN)),
            "robust_share": ((LITTLE, 2.0), (0, -1.0, NAN)),
        },
    ),
    InfomaxConfig: ("objectives.infomax", {"weight": WEIGHT}),
    TaxonomyConfig: (
        "objectives.taxonomy",
        {
            "weight": WEIGHT,
            "levels": ((1, 2), (0,)),
            "items": ((2, 3), (1,)),
            "temperature": ((LITTLE, 1e6), (0, INF, NAN)),
        },
    ),
    TransferConfig: ("objectives.transfer", {"weight": WEIGHT, "sharpness": WEIGHT}),
}
DEFAULTS: dict[type, dict[str, Any]] = {
    DenseConfig: {
        "learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0,
    },
    TableConfig: {
        "rule": "adam", "learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-8, "weight_decay": 0.0,
    },
    ScheduleConfig: {"kind": "constant", "warmup_steps": 0, "final": 0.0},
    NextItemConfig: {
        "kind": "softmax", "softmax_over": "all", "negatives": 256, "sampler": "uniform", "popularity_power": 1.0,
        "correct": True, "calibration": 0.75,
    },
    DenoiseConfig: {"trim": 0.0, "trim_steps": 1000, "robust": "none", "power": 0.3, "reverse": 4.0, "noise": 0.2},
    ContrastiveConfig: {
        "intra": 0.0, "inter": 0.0, "second": "in_domain", "form": "decoupled", "temperature": 0.1, "negatives": 1024,
        "robust_power": 0.5, "robust_share": 0.025,
    },
    InfomaxConfig: {"weight": 0.0},
    TaxonomyConfig: {"weight": 0.0, "levels": 3, "items": 512, "temperature": 0.1, "constraint": True},
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
    def largest(**fields: Any) -> float:
        config = ContrastiveConfig(form="robust", **fields)
        return config.robust_power * (1 / config.temperature + math.log(config.negatives + 1))

    assert 79 < largest(robust_power=1.0, temperature=1 / 78, negatives=2) < 80
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        largest(robust_power=1.0, temperature=1 / 79, negatives=2)
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        largest(robust_power=1.0, temperature=1 / 75, negatives=1000)
    assert largest(robust_power=0.5, temperature=1 / 79, negatives=2) < 41
    # Other forms take no power of it.
    assert ContrastiveConfig(form="infonce", temperature=1e-3).temperature == 1e-3
    with pytest.raises(ConfigError, match=r"objectives\.contrastive\.temperature"):
        ContrastiveConfig(form="robust", temperature=0.0)


@pytest.mark.parametrize(
    ("intra", "inter", "second", "needed"),
    [
        (0, 0, "in_domain", False), (0.1, 0, "in_domain", True), (0.1, 0, "dropout", False),
        (0, 0.1, "in_domain", True), (0, 0.1, "dropout", True),
    ],
)  # fmt: skip
def test_a_contrast_with_in_domain_states_needs_them(intra: float, inter: float, second: Any, needed: bool) -> None:
    assert ContrastiveConfig(intra, inter, second).needs_views is needed


def test_denoising_is_used_where_a_part_of_it_is_switched_on() -> None:
    assert not DenoiseConfig(power=0.5).used
    assert DenoiseConfig(trim=LITTLE).used
    assert DenoiseConfig(robust="symmetric").used


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
