"""Every logical axis of every model can be split over devices: no array has two axes of one name, and the forward pass
and its gradient lower with every axis split."""

import re
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from mdrec_jax.models.api import Model, ModelConfig, encode_batch, make_model
from mdrec_jax.models.bsarec import BsarecConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import DisentangleConfig
from mdrec_jax.models.gru4rec import Gru4RecConfig
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.models.layers.loop import LoopConfig
from mdrec_jax.models.layers.mixers import MixersConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.types import DatasetSpec, ParameterFacts, Params
from tests.models.make import pack, random_sequences

SPEC = DatasetSpec(num_items=40, num_domains=4, num_events=2, has_time=True, last_time=30 * 86_400 * 6)
SIZES = {"dim": 8, "layers": 1, "heads": 2, "attention_window": 16}
SASREC = RecommenderConfig(**SIZES)
MODELS: dict[str, ModelConfig] = {
    "sasrec": replace(SASREC, domain_embedding=True, event_embedding=True, date_days=30.0),
    "loop, memories": replace(
        SASREC, loop=LoopConfig(4, rank=2), learned_memory=LearnedMemoryConfig(8, 4), user_memory=True
    ),
    "mixers, experts": replace(
        SASREC,
        mixers=MixersConfig(("attention", "convolution", "context")),
        experts=ExpertsConfig(per_width=2, multiples=(1.0, 2.0)),
    ),
    "views": replace(SASREC, views=ViewsConfig(in_domain=True, path_rank=2)),
    "codes": replace(
        SASREC,
        views=ViewsConfig(in_domain=True),
        disentangle=DisentangleConfig(codes=True, shared_rank=4, domain_whitening=True, cross_domain=True),
    ),
    "hstu": HstuConfig(**SIZES),
    "gru4rec": Gru4RecConfig(dim=8, layers=2),
    "bsarec": BsarecConfig(**SIZES),
}


def leaves(model: Model) -> list[ParameterFacts]:
    return jax.tree.leaves(model.facts, is_leaf=lambda x: isinstance(x, ParameterFacts))


def axes(model: Model) -> Iterator[tuple[str, int]]:
    """Each axis of each array: its name and length."""
    for fact in leaves(model):
        yield from zip(fact.logical_axes, fact.shape, strict=True)


def lower(model: Model, mesh: Mesh, rules: dict[str, str | None]) -> None:
    """Loss and gradient with every parameter split by the rules; JAX refuses a mesh axis that an array has twice."""
    spread = jax.tree.map(
        lambda fact: NamedSharding(mesh, jax.P(*(rules.get(name) for name in fact.logical_axes))),
        model.facts,
        is_leaf=lambda x: isinstance(x, ParameterFacts),
    )
    abstract = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(model.init, jax.random.key(0)),
        spread,
    )
    batch = pack([random_sequences(1, [9, 14]), random_sequences(2, [20])])

    def loss(dense: dict, params: Params) -> jax.Array:
        h = encode_batch(model, Params(dense, params.tables, params.statistics), batch).h
        return jnp.square(h).mean()

    jax.jit(jax.value_and_grad(loss), out_shardings=(None, spread.dense)).lower(abstract.dense, abstract)


def colours(model: Model) -> dict[str, int]:
    """A number for each axis, so that no array has one twice."""
    chosen: dict[str, int] = {}
    for name, _ in axes(model):
        beside = {
            chosen.get(other) for fact in leaves(model) if name in fact.logical_axes for other in fact.logical_axes
        }
        chosen.setdefault(name, next(n for n in range(9) if n not in beside))
    return chosen


@pytest.mark.parametrize("name", MODELS)
def test_no_array_has_two_axes_of_one_name_and_each_has_a_name(name: str) -> None:
    model = make_model(MODELS[name], SPEC)
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(model.init, jax.random.key(0)))
    for fact, shape in zip(leaves(model), jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple)), strict=True):
        assert fact.shape == shape
        assert len(set(fact.logical_axes)) == len(fact.logical_axes) == len(shape)


@pytest.mark.parametrize("name", MODELS)
def test_every_axis_can_be_split_over_devices_beside_others(name: str) -> None:
    """Two devices along each of three axes of the mesh, as many times as it takes for each axis to have its turn."""
    model = make_model(MODELS[name], SPEC)
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), ("a", "b", "c"))
    even = {axis for axis, _ in axes(model)} - {axis for axis, length in axes(model) if length % 2}
    for first in range(0, 1 + max(colours(model).values()), 3):
        rules = {axis: "abc"[n - first] for axis, n in colours(model).items() if first <= n < first + 3}
        lower(model, mesh, {axis: along for axis, along in rules.items() if axis in even})


def test_between_them_the_models_here_split_every_axis_that_facts_may_name() -> None:
    lengths: dict[str, set[int]] = {}
    for config in MODELS.values():
        for name, length in axes(make_model(config, SPEC)):
            lengths.setdefault(name, set()).add(length)
    documented = (ParameterFacts.__doc__ or "").partition("scope:")[0]
    assert lengths.keys() == set(re.findall(r"`(\w+)`", documented))
    assert {name for name, found in lengths.items() if all(length % 2 for length in found)} == set()
