import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from mdrec_jax.codec import digest, flatten, from_plain, to_plain
from mdrec_jax.config import RunConfig, load_preset, preset_names
from mdrec_jax.errors import ConfigError


@dataclass(frozen=True)
class Small:
    width: int = 3


@dataclass(frozen=True)
class Large:
    rate: float = 0.5


@dataclass(frozen=True)
class Whole:
    part: Small | Large = field(default_factory=Small)
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    bound: int | None = None
    kind: Literal["plain", "fancy"] = "plain"


def test_reading_what_was_written_gives_the_same_value() -> None:
    for whole in (Whole(), Whole(Large(2.0), "b", (), 7, "fancy")):
        assert from_plain(Whole, to_plain(whole)) == whole


@pytest.mark.parametrize(
    ("plain", "column"),
    [
        ({"mood": "a"}, "mood"),
        ({"mode": "c"}, "mode"),
        ({"part": {"class": "Small", "width": 1.5}}, "part.width"),
        ({"part": {"class": "Medium"}}, "part.class"),
        ({"part": {"class": "Small", "depth": 1}}, "part.depth"),
        ({"sizes": 3}, "sizes"),
        ({"sizes": [1, True]}, "sizes[1]"),
    ],
)
def test_a_wrong_field_is_named(plain: dict, column: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_plain(Whole, plain)
    assert error.value.column == column


def test_the_digest_leaves_out_what_it_is_told_to() -> None:
    one, other = to_plain(Whole()), to_plain(Whole(Small(9)))
    assert digest(one) != digest(other)
    assert digest(one, ["part"]) == digest(other, ["part"])
    assert "part.width" in flatten(one)


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_read_back_as_it_was_written(name: str, smoke: bool) -> None:
    config = load_preset(name, smoke=smoke)
    assert RunConfig.from_plain(json.loads(json.dumps(config.to_plain()))) == config


def test_a_digest_takes_equal_numbers_for_equal():
    assert (
        digest({"epochs": 4, "rate": 0.5})
        == digest({"epochs": 4.0, "rate": 0.5})
        != digest({"epochs": 4.5, "rate": 0.5})
    )
