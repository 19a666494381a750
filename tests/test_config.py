"""Every field of a configuration refuses what no run could be made with."""

import copy
import math
from typing import Any

import pytest

from mdrec_jax.codec import flatten
from mdrec_jax.config import MAX_SEED, RunConfig, load_preset, preset_names
from mdrec_jax.data.synthetic import SyntheticConfig
from mdrec_jax.errors import ConfigError


def changed(plain: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """`plain` with another value at a dotted name."""
    plain = copy.deepcopy(plain)
    *places, last = name.split(".")
    part = plain
    for place in places:
        part = part[place]
    part[last] = value
    return plain


@pytest.mark.parametrize("preset", preset_names())
def test_no_number_of_a_preset_may_be_nan_or_infinite(preset: str) -> None:
    plain = load_preset(preset).to_plain()
    numbers = [name for name, value in flatten(plain).items() if isinstance(value, float)]
    assert len(numbers) > 10
    for name in numbers:
        for value in (math.nan, math.inf):
            with pytest.raises(ConfigError) as error:
                RunConfig.from_plain(changed(plain, name, value))
            assert str(error.value.column).rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]
            assert error.value.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("train.evaluate_every", 0.0),
        ("optim.dense.clip_norm", -1.0),
        ("optim.beta2", 1.0),
    ],
)
def test_a_number_out_of_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="out of range") as error:
        RunConfig.from_plain(changed(RunConfig().to_plain(), name, value))
    assert (error.value.column, error.value.found) == (name, value)


def test_the_largest_seed_is_a_seed() -> None:
    assert RunConfig(seed=MAX_SEED).seed == MAX_SEED


@pytest.mark.parametrize("given", [{"mean_length": -1.0}, {"cold_boost": -1.0}, {"spread": math.inf}])
def test_a_world_that_cannot_be_drawn_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        SyntheticConfig(**given)
    assert [error.value.column] == list(given)
