"""The shared and the specific code: what each may know, what the losses do to them, and what is refused."""

import dataclasses
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.api import Model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.disentangle import Codes, DisentangleConfig, Disentangled
from mdrec_jax.models.encoded import Encoded
from mdrec_jax.models.layers.dropout import row_seeds
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.objectives.disentangle import WEIGHTS, DisentangleLossConfig, of_tokens
from mdrec_jax.objectives.forward import Forward
from mdrec_jax.objectives.next_item import Candidates, NextItemConfig, make_objective
from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh, replicated
from mdrec_jax.types import Batch, Params
from tests.models.make import FLAGSHIP, SPEC, built, pack, random_sequences, rows_of

LENGTHS = [5, 7, 3, 9, 1, 12, 4, 6]
SEQUENCES = random_sequences(0, LENGTHS)
EVERYTHING = DisentangleConfig(codes=True, shared_rank=3, cross_domain=True, erase=True)
LOSSES = DisentangleLossConfig(shared_alone=0.5, mmd=0.2, adversary=0.3, specific_domain=0.9, sample=32)
ITEMS = [np.arange(2 + domain, SPEC.num_items, SPEC.num_domains) for domain in range(SPEC.num_domains)]
NEXT_ITEM = make_objective(NextItemConfig(), ITEMS, np.ones(SPEC.num_items), 48)


def batch_of(rows: list[list[list[int]]]) -> Batch:
    batch = pack(rows)
    users = np.arange(batch.segment_user.size, dtype=np.int32).reshape(batch.segment_user.shape)
    return dataclasses.replace(batch, segment_user=users)


BATCH = batch_of([SEQUENCES[:2], SEQUENCES[2:4], SEQUENCES[4:6], SEQUENCES[6:]])


def config(disentangle: DisentangleConfig) -> RecommenderConfig:
    return replace(FLAGSHIP, views=ViewsConfig(True, 2), disentangle=disentangle)


def encoded(config: RecommenderConfig, batch: Batch) -> Encoded:
    model, params = built(config)
    return jax.jit(
        lambda params: model.encode(params.dense, rows_of(model, params, batch), batch, key=None, train=False)
    )(params)


def codes_of(part: DisentangleConfig, batch: Batch) -> Codes:
    codes = encoded(config(part), batch).codes
    assert codes is not None
    return codes


def test_the_state_is_the_sum_of_the_codes() -> None:
    found = encoded(config(DisentangleConfig(codes=True)), BATCH)
    assert found.codes is not None
    np.testing.assert_allclose(found.h, found.codes.shared + found.codes.specific, rtol=1e-6)


def test_the_shared_code_is_never_told_the_targets_domain() -> None:
    other = dataclasses.replace(
        BATCH,
        target_domain=(np.asarray(BATCH.target_domain) + 1) % SPEC.num_domains,
        previous_in_target_domain=np.full_like(BATCH.previous_in_target_domain, -1),
    )
    for part in (DisentangleConfig(codes=True), DisentangleConfig(codes=True, shared_rank=3, erase=True)):
        first, second = (codes_of(part, batch) for batch in (BATCH, other))
        np.testing.assert_array_equal(first.shared, second.shared)
        assert np.abs(first.specific - second.specific).max() > 0.1


def test_the_specific_code_knows_one_domain() -> None:
    """Events of other domains may be exchanged for others of theirs."""
    item, asked = np.asarray(BATCH.item), 1
    elsewhere = (np.asarray(BATCH.segment) > 0) & (item % SPEC.num_domains != asked)
    moved = np.where(elsewhere, (item + 1) % 36 + 2, item)
    np.testing.assert_array_equal(moved % SPEC.num_domains, item % SPEC.num_domains)
    codes = [codes_of(DisentangleConfig(codes=True), dataclasses.replace(BATCH, item=x)) for x in (item, moved)]
    there = (np.asarray(BATCH.target_domain) == asked) & (BATCH.segment > 0)
    np.testing.assert_allclose(codes[0].specific[there], codes[1].specific[there], rtol=1e-6)
    assert np.abs(codes[0].shared - codes[1].shared)[there].max() > 0.1


def seen(model: Model, rows: Any, found: Encoded, batch: Batch, seeds: jax.Array) -> Forward:
    """What the objective is given, with one target in all."""
    table = rows["item"].values
    return Forward(
        model, batch, found, NEXT_ITEM, Candidates({}, {}), lambda ids: table, seeds, jnp.float32(1.0), Spread(DATA)
    )


def spread(batch: Batch, devices: int) -> tuple[Any, Any]:
    """The sum of all losses and its gradient, the batch's rows spread over some devices."""
    model, params = built(config(EVERYTHING))

    def local(params: Params, part: Batch) -> Any:
        row = jax.lax.axis_index(DATA) * part.item.shape[0]

        def loss(dense: Any) -> Any:
            rows = rows_of(model, dataclasses.replace(params, dense=dense), part)
            found = model.encode(dense, rows, part, key=jax.random.key(7), train=True, row_offset=row)
            seeds = row_seeds(jax.random.key(7), part.item.shape[0], row)
            losses = {
                name: weight * loss
                for name, (weight, loss) in LOSSES.losses(seen(model, rows, found, part, seeds)).items()
            }
            return sum(losses.values(), jnp.float32(0.0)) + 1e-3 * found.h.sum(), losses

        (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(params.dense)
        return jax.lax.psum((losses, gradient), DATA)

    mesh = make_mesh(MeshConfig(devices))
    body = jax.shard_map(
        local, mesh=mesh, in_specs=(jax.P(), jax.P(DATA)), out_specs=(jax.P(), jax.P()), check_vma=False
    )
    return jax.jit(body)(jax.device_put(params, replicated(mesh)), jax.device_put(batch, by_row(mesh)))


def test_losses_and_gradients_do_not_depend_on_how_the_rows_are_spread() -> None:
    (losses, gradient), (again, same) = (spread(BATCH, devices) for devices in (1, 4))
    assert losses.keys() == {"erase", "cross_domain_alone", *WEIGHTS}
    for name, loss in losses.items():
        assert loss != 0
        np.testing.assert_allclose(again[name], loss, rtol=2e-5, err_msg=name)
    flat, _ = jax.tree.flatten_with_path(gradient)
    for (path, one), other in zip(flat, jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max(), err_msg=jax.tree_util.keystr(path))
        assert np.abs(one).max() > 0, jax.tree_util.keystr(path)


def test_what_the_user_did_elsewhere_is_told_nothing_of_the_targets_domain() -> None:
    """Another item of the same domain moves no code of a target in that domain, and moves those of other targets."""
    part = DisentangleConfig(codes=True, cross_domain=True, shared_rank=3)
    model, params = built(config(part))

    @jax.jit
    def cross_domain(batch: Batch) -> jax.Array:
        rows = rows_of(model, params, batch)
        codes = model.encode(params.dense, rows, batch, key=jax.random.key(5), train=True).codes
        assert codes is not None
        assert codes.cross_domain is not None
        return codes.cross_domain

    item, asked = np.asarray(BATCH.item), 1
    inside = (np.asarray(BATCH.segment) > 0) & (item % SPEC.num_domains == asked)
    moved = np.where(inside, (item + SPEC.num_domains - 2) % 36 + 2, item)
    before, after = cross_domain(BATCH), cross_domain(dataclasses.replace(BATCH, item=moved))
    there = (np.asarray(BATCH.target_domain) == asked) & (BATCH.segment > 0)
    np.testing.assert_allclose(after[there], before[there], rtol=1e-5, atol=1e-6)
    assert np.abs(after - before)[~there].max() > 0.1
    assert (np.abs(before[there]).max(-1) > 0).any()


def test_a_shared_code_that_learns_from_its_own_losses_is_a_constant_in_the_state() -> None:
    for learns, moves in (("all", True), ("own", False)):
        fusion = module(shared_learns=learns, shared_rank=3)
        gradient = jax.grad(lambda f: jnp.square(f(*X, *DOMAINS, None)[0]).sum())(fusion)
        assert (np.abs(gradient.shared_in.kernel.get_value()).max() > 0) == moves
        assert np.abs(gradient.specific_map.kernel.get_value()).max() > 0


def test_an_erased_code_has_as_many_directions_less() -> None:
    fusion = module(shared_rank=2, erase=True)
    codes = fusion(*X, *DOMAINS, None)[1]
    values = np.linalg.svd(np.asarray(codes.specific).reshape(-1, 8), compute_uv=False)
    assert (values > 1e-2 * values[0]).sum() == 8 - 2


def module(**fields: Any) -> Disentangled:
    part = DisentangleConfig(codes=True, **fields)
    return Disentangled(jax.random.key(0), 8, SPEC.num_domains, part, rate=0.0, path_rank=0)


X = jax.random.normal(jax.random.key(1), (2, *BATCH.item.shape, 8))
DOMAINS = jnp.asarray(BATCH.domain), jnp.asarray(BATCH.target_domain)


def token_loss(fusion: Disentangled, config: DisentangleLossConfig, name: str, own: jax.Array = X[1]) -> jax.Array:
    """The sum over the targets, with its weight."""
    codes = fusion(X[0], own, *DOMAINS, None)[1]
    weight, value = of_tokens(config, codes, codes.shared, BATCH)[name]
    return weight * jnp.where(BATCH.weight > 0, value, 0.0).sum()


def test_the_adversary_learns_what_the_code_unlearns() -> None:
    """A step down its gradient helps the classifier and, taken by the code's projection, hurts it."""
    fusion = module()

    def loss(fusion: Disentangled) -> jax.Array:
        return token_loss(fusion, DisentangleLossConfig(adversary=1.0), "adversary")

    before, gradient = jax.jit(jax.value_and_grad(loss))(fusion)
    for name, sign in (("readers", -1), ("shared_map", 1)):
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, getattr(fusion, name), getattr(gradient, name))
        other = jax.tree.map(lambda p: p, fusion)
        setattr(other, name, moved)
        assert np.sign(loss(other) - before) == sign, name


def test_the_specific_code_learns_to_give_its_domain_away_where_it_has_one() -> None:
    fusion = module()

    def loss(fusion: Disentangled, own: jax.Array = X[1]) -> jax.Array:
        return token_loss(fusion, DisentangleLossConfig(specific_domain=0.5), "specific_domain", own)

    logits = np.asarray(fusion.readers.of_specific(fusion(*X, *DOMAINS, None)[1].specific))
    missed = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, BATCH.target_domain[..., None], -1)[..., 0]
    known = (BATCH.weight > 0) & (BATCH.previous_in_target_domain >= 0)
    assert 0 < known.sum() < (BATCH.weight > 0).sum()
    before, gradient = jax.value_and_grad(loss)(fusion)
    np.testing.assert_allclose(before, 0.5 * missed[known].sum(), rtol=1e-5)
    for name in ("readers", "specific_map"):
        other = jax.tree.map(lambda p: p, fusion)
        setattr(other, name, jax.tree.map(lambda p, g: p - 1e-3 * g, getattr(fusion, name), getattr(gradient, name)))
        assert loss(other) < before, name
    moved = np.any(np.asarray(jax.grad(loss, argnums=1)(fusion, X[1])) != 0, axis=-1)
    np.testing.assert_array_equal(moved, known)


def test_what_stays_with_the_domains() -> None:
    dense = built(config(EVERYTHING))[0].facts.dense["fusion"]
    assert dense["shared_map"]["kernel"].scope == "shared"
    assert dense["paths"]["up"].scope == dense["null"].scope == "private"


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (DisentangleLossConfig, {"mmd": -1.0}, "disentangle.mmd"),
        (DisentangleLossConfig, {"adversary": float("nan")}, "disentangle.adversary"),
        (DisentangleLossConfig, {"sample": 0}, "sample"),
        (DisentangleConfig, {"codes": True, "shared_rank": -1}, "disentangle.shared_rank"),
        (DisentangleConfig, {"codes": True, "erase": True}, "disentangle.erase"),
    ],
)
def test_what_cannot_be_is_refused(kind: type, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        kind(**fields)


def test_codes_need_the_in_domain_view() -> None:
    with pytest.raises(ConfigError, match=r"disentangle\.codes"):
        replace(FLAGSHIP, disentangle=DisentangleConfig(codes=True))
