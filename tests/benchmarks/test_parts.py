"""The settings that a part of the flagship is measured in, and the plain model that it stands beside."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import parts
import study

from mdrec_jax.config import load_preset
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.experiments.config_fields import with_fields


@pytest.mark.parametrize("base", parts.BASES)
def test_every_setting_is_a_configuration_of_its_base_and_none_is_the_plain_one(base: str) -> None:
    preset, fields = parts.BASES[base]
    plain = with_fields(load_preset(preset), fields)
    for part in parts.PARTS.values():
        common = with_fields(plain, part.common)
        changed = [with_fields(common, setting) for setting in part.settings]
        assert all(one != common for one in changed)
        assert len({one.hash() for one in changed}) == len(changed)
        assert all((one.model == common.model) == part.objective for one in changed)


def test_the_control_of_a_part_costs_what_the_part_costs(tmp_path: Path) -> None:
    write_world(SyntheticConfig(users=150, items=260, domains=2, seed=3), tmp_path / "world")
    small = with_fields(load_preset("mdrec", smoke=True), {"model.dim": 16})
    one = study.Study(small, open_dataset(tmp_path / "world"), tmp_path / "runs", (0,))
    mixers = {"model.mixers.kinds": ["attention", "convolution"]}
    control = one.control(mixers, {})
    assert one.flops(mixers) > 1.01 * one.flops({})
    assert 0.98 < one.flops(control) / one.flops(mixers) < 1.1
