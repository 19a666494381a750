"""Configurations out of range are refused by the name of the field, and models say what their parameters are."""

from dataclasses import replace
from itertools import dropwhile
from typing import Any

import jax
import pytest

from mdrec_jax.errors import EXIT_BAD_INPUT, ConfigError, InputError
from mdrec_jax.models.api import ModelConfig, make_model, parameter_facts
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.types import ParameterFacts
from tests.models.make import FLAGSHIP, PARTS, SPEC, VARIANTS, built, pack, states

BOTH = (RecommenderConfig, HstuConfig)
BAD = [
    *(
        (kind, field, value)
        for kind in BOTH
        for field in ("dim", "layers", "heads", "attention_window")
        for value in (0, -1)
    ),
    *((kind, "dim", 64.0) for kind in BOTH),
    *((kind, "heads", 3) for kind in BOTH),
    *((kind, "embedding_dropout", value) for kind in BOTH for value in (-0.1, 1.0, float("nan"))),
    *((kind, "residual_dropout", 1.5) for kind in BOTH),
    *((kind, field, 0.0) for kind in BOTH for field in ("embedding_scale", "init_scale")),
    *((kind, "init_scale", float("inf")) for kind in BOTH),
    *((kind, "temperature", value) for kind in BOTH for value in (-0.1, float("nan"))),
    *((kind, "positions", "relative") for kind in BOTH),
    (RecommenderConfig, "inner_dropout", 1.0),
    (RecommenderConfig, "ffn_multiple", -4.0),
    (RecommenderConfig, "activation", "tanh"),
    (HstuConfig, "time_buckets", 0),
]


@pytest.mark.parametrize(("kind", "field", "value"), BAD)
def test_a_value_out_of_range_is_refused_by_name(kind: type, field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        kind(**{field: value})
    assert error.value.column == f"model.{field}"
    assert error.value.exit_code == EXIT_BAD_INPUT
    assert error.value.expected


def test_rotary_positions_need_heads_of_an_even_width() -> None:
    with pytest.raises(ConfigError, match=r"model\.positions"):
        RecommenderConfig(dim=15, heads=3, positions="rotary")


@pytest.mark.parametrize("config", [RecommenderConfig(), HstuConfig()])
def test_data_without_an_order_is_refused(config: ModelConfig) -> None:
    with pytest.raises(InputError, match="order"):
        make_model(config, replace(SPEC, ordered=False))


EVERY = VARIANTS | {name: replace(FLAGSHIP, **part) for name, part in PARTS.items()}


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
def test_every_parameter_states_its_axes_scope_and_group(config: ModelConfig) -> None:
    model = make_model(config, SPEC)
    params, facts = jax.eval_shape(model.init, jax.random.key(0)), parameter_facts(model)

    def agrees(fact: ParameterFacts, leaf: jax.Array) -> None:
        assert fact.shape == leaf.shape
        assert len(fact.logical_axes) == leaf.ndim
        assert fact.scope in ("shared", "private")
        # What a block, a pass or an expert has by itself says what it is, however many of them stand in one array.
        own = list(dropwhile(lambda axis: axis in ("layers", "pass", "expert"), fact.logical_axes))
        assert fact.group in (("matrix", "embedding", "table") if len(own) > 1 else ("vector",))

    for part in ("dense", "tables"):
        jax.tree.map(agrees, getattr(facts, part), getattr(params, part))
    for fact, leaf in zip(jax.tree.leaves(facts.statistics), jax.tree.leaves(params.statistics), strict=True):
        assert (fact.group, fact.scope, fact.shape) == ("statistic", "private", leaf.shape)
    assert facts.tables["item"] == ParameterFacts(("table", "embed"), "private", "table", (48, config.dim))
    blocks = jax.tree.leaves(facts.dense["blocks"], is_leaf=lambda leaf: isinstance(leaf, ParameterFacts))
    assert all(fact.logical_axes[0] == "layers" for fact in blocks)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
def test_parameters_are_plain_nested_dicts_of_float32(config: ModelConfig) -> None:
    def check(tree: Any) -> None:
        if isinstance(tree, dict):
            assert all(isinstance(name, str) for name in tree)
            for branch in tree.values():
                check(branch)
        else:
            assert tree.dtype == "float32"

    params = jax.eval_shape(make_model(config, SPEC).init, jax.random.key(0))
    check(params.dense)
    check(params.tables)
    check(params.statistics)


@pytest.mark.parametrize("config", [RecommenderConfig(dim=8), HstuConfig(dim=8)])
def test_a_model_is_a_value(config: ModelConfig) -> None:
    one, other = (make_model(config, SPEC) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize("config", [RecommenderConfig(dim=8), HstuConfig(dim=8)])
def test_initial_values_depend_on_the_key_alone(config: ModelConfig) -> None:
    model = make_model(config, SPEC)
    first, again, other = (model.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), first, again))
    assert (first.tables["item"] != other.tables["item"]).any()


def test_a_missing_parameter_is_not_made_up() -> None:
    model, params = built(RecommenderConfig(dim=8))
    dense = {name: value for name, value in params.dense.items() if name != "final_norm"}
    with pytest.raises(ValueError, match="final_norm"):
        states(model, replace(params, dense=dense), pack([[[2, 3]]]))
