"""Which variants of a run an ablation has, and that its controls cost what the parts cost."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.experiments import costs
from mdrec_jax.experiments.ablation import variants
from mdrec_jax.experiments.costs import Cost, parameters
from mdrec_jax.experiments.matched_controls import TOLERANCE, deeper, longer, wider
from mdrec_jax.experiments.part_switches import SWITCHES, all_off, switches_on, without
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.models.layers.loop import LoopConfig
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.objectives.combine import ObjectivesConfig
from mdrec_jax.objectives.contrastive import ContrastiveConfig
from mdrec_jax.objectives.disentangle import DisentangleLossConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.objectives.taxonomy import TaxonomyConfig
from mdrec_jax.objectives.transfer import TransferConfig
from mdrec_jax.train.setup import Setup

ENCODER = RecommenderConfig(dim=16, layers=2, attention_window=24)
EVERYTHING = replace(
    ENCODER,
    views=ViewsConfig(in_domain=True, path_rank=2),
    loop=LoopConfig(max_steps=2),
    learned_memory=LearnedMemoryConfig(local=3, shared=3),
    user_memory=True,
    mixers=MixersConfig(("attention", "convolution")),
    experts=ExpertsConfig(per_width=1),
    disentangle=DisentangleConfig(codes=True, shared_rank=2, domain_whitening=True, cross_domain=True, erase=True),
)
RUN = replace(
    RunConfig(),
    batching={"max_length": 24, "row_length": 24},
    model=EVERYTHING,
    objectives=ObjectivesConfig(
        ContrastiveConfig(intra=0.1, inter=0.1), DisentangleLossConfig(shared_alone=0.1, mmd=0.1), TaxonomyConfig(0.1),
        TransferConfig(0.1),
    ),
    loss=NextItemConfig(noise=0.1),
)  # fmt: skip
CODES = "shared and specific codes"
WITHIN = {CODES: {"sufficiency", "cross-domain code", "domain whitening", "erasure", "alignment"}}
CONTRASTS = {"contrast within domains", "contrast between domains"}
WITHIN["in-domain view"] = {"domain paths", CODES, "transfer weights"} | WITHIN[CODES] | CONTRASTS


@dataclass(frozen=True)
class Linear:
    """Costs without counting: a layer costs 10, whatever else is in it, and a part of the flagship costs 7."""

    dataset: Dataset

    def of(self, config: RunConfig) -> Cost:
        model = config.model
        assert isinstance(model, RecommenderConfig)
        return Cost(*parameters(config, self.dataset), 100.0 + 10 * model.layers + 7 * len(switches_on(config)))


def test_every_part_has_a_switch() -> None:
    groups = {field.name for field in dataclasses.fields(RecommenderConfig) if field.default is dataclasses.MISSING}
    model = {f"model.{name}" for name in groups} | {"model.user_memory"}
    objectives = {f"objectives.{field.name}" for field in dataclasses.fields(ObjectivesConfig)}
    switched = {".".join(name.split(".")[:2]) for switch in SWITCHES for name in switch.off}
    assert switched == model | objectives | {"loss.noise"}


def test_each_switch_turns_off_its_part_and_what_is_built_on_it(small_world: Path) -> None:
    config = RUN
    dataset = open_dataset(small_world)
    assert switches_on(config) == list(SWITCHES)
    for switch in SWITCHES:
        less = without(config, switch)
        left = {other.name for other in switches_on(less)}
        assert left == {other.name for other in SWITCHES} - {switch.name} - WITHIN.get(switch.name, set())
        Setup.of(less, dataset)  # a run that can be


def test_all_off_is_sasrec() -> None:
    assert all_off(replace(RUN, seed=3)) == replace(RunConfig(), batching=RUN.batching, model=ENCODER, seed=3)


def test_the_rows_of_an_ablation(small_world: Path) -> None:
    linear = Linear(open_dataset(small_world))
    some = replace(ENCODER, views=ViewsConfig(in_domain=True), loop=LoopConfig(max_steps=2))
    rows = variants(replace(RunConfig(), model=some), linear)
    names = ["full", "without in-domain view", "without loop", "all off"]
    assert [row.name for row in rows] == [*names, *(f"all off, {how}" for how in ("deeper", "longer", "wider"))]
    assert len({row.folder for row in rows}) == len(rows)
    alone = variants(replace(RunConfig(), model=replace(ENCODER, loop=LoopConfig(max_steps=2))), linear)
    assert [row.name for row in alone][:2] == ["full", "all off"]


@pytest.mark.parametrize(("model", "said"), [(HstuConfig(), "RecommenderConfig"), (ENCODER, "every part is off")])
def test_a_run_without_parts_is_refused(model: object, said: str, small_world: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        variants(replace(RunConfig(), model=model), Linear(open_dataset(small_world)))


def test_controls_cost_what_the_full_run_does(small_world: Path) -> None:
    linear = Linear(open_dataset(small_world))
    config = replace(RUN, train={"epochs": 6.0, "steps": 30, "evaluate_every": 2.0})
    base, full = all_off(config), linear.of(config)
    assert full.flops == 120 + 7 * len(switches_on(config))
    deep, long, wide = deeper(base, full, linear.of), longer(base, full, linear.of), wider(base, full, _dense(linear))
    assert deep is not None
    wanted = (1 - TOLERANCE) * full.flops
    assert wanted <= linear.of(deep.config).flops < wanted + 10
    assert long is not None
    factor = full.flops / linear.of(base).flops
    assert (long.config.train.epochs, long.config.train.evaluate_every) == pytest.approx((6 * factor, 2 * factor))
    assert long.config.train.steps == round(30 * factor)
    assert wide is not None
    one_wider = replace(wide.config, model={"ffn_multiple": (wide.config.model.ffn_width + 8) / 16})
    step = _dense(linear)(one_wider) - _dense(linear)(wide.config)
    assert abs(_dense(linear)(wide.config) - full.dense) <= step / 2


def test_no_control_where_there_is_nothing_to_spend(small_world: Path) -> None:
    linear = Linear(open_dataset(small_world))
    base = replace(RunConfig(), model=ENCODER)
    cost = linear.of(base)
    assert deeper(base, cost, linear.of) is None
    assert longer(base, cost, linear.of) is None
    assert wider(base, cost, _dense(linear)) is None


def test_costs_are_counted_once_a_step(
    short_run: RunConfig, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr(costs, "step_flops", lambda config, _: counted.append(config) or 5.0)
    known = costs.Costs(open_dataset(small_world), tmp_path / "costs.json")
    first = known.of(short_run)
    assert first == Cost(*parameters(short_run, known.dataset), 5.0)
    assert known.of(replace(short_run, train={"steps": 9})) == first
    assert len(counted) == 1
    known.of(replace(short_run, model={"layers": 2}))
    assert len(counted) == 2
    record = json.loads(known.file.read_text())
    known.file.write_text(json.dumps({**record, "dataset": "another"}))
    known.of(short_run)
    assert len(counted) == 3


def _dense(linear: Linear):
    return lambda config: parameters(config, linear.dataset)[0]
