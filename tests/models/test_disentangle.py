"""The shared and the specific code: what each may know, what the losses do to them, and what is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.disentangle import WEIGHTS, DisentangleConfig, Disentangled
from mdrec_jax.models.layers import row_seeds
from mdrec_jax.models.mdrec import MdrecConfig
from mdrec_jax.models.views import ViewsConfig
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh, replicated
from mdrec_jax.types import Batch, Encoded, Params
from tests.models.make import FLAGSHIP, PARTS, SPEC, built, pack, random_sequences, rows_of

LENGTHS = [5, 7, 3, 9, 1, 12, 4, 6]
SEQUENCES = random_sequences(0, LENGTHS)
EVERYTHING = DisentangleConfig(
    codes=True, fusion="gate", variational=True, shared_alone=0.5, specific_alone=0.25, info_nce=0.1, mmd=0.2,
    adversary=0.3, orthogonal=0.4, hsic=0.5, club=0.6, kl=0.7, sample=32, hidden=4,
    across=0.8, shared_rank=3, erase=True, specific_domain=0.9,
)  # fmt: skip


def batch_of(rows: list[list[list[int]]]) -> Batch:
    batch = pack(rows)
    users = np.arange(batch.segment_user.size, dtype=np.int32).reshape(batch.segment_user.shape)
    return dataclasses.replace(batch, segment_user=users)


BATCH = batch_of([SEQUENCES[:2], SEQUENCES[2:4], SEQUENCES[4:6], SEQUENCES[6:]])


def config(disentangle: DisentangleConfig, **views: Any) -> MdrecConfig:
    return MdrecConfig(FLAGSHIP, views=ViewsConfig(True, 2, 2, **views), disentangle=disentangle)


def encoded(config: MdrecConfig, batch: Batch) -> Encoded:
    model, params = built(config)
    return jax.jit(
        lambda params: model.encode(params.dense, rows_of(model, params, batch), batch, key=None, train=False)
    )(params)


def test_the_state_is_the_sum_of_the_codes() -> None:
    found = encoded(config(DisentangleConfig(codes=True)), BATCH)
    np.testing.assert_allclose(found.h, found.codes["shared"] + found.codes["specific"], rtol=1e-6)
    assert found.losses.keys() == {"parts"}
    assert found.scored == {}


def test_the_shared_code_is_never_told_the_targets_domain() -> None:
    other = dataclasses.replace(
        BATCH,
        target_domain=(np.asarray(BATCH.target_domain) + 1) % SPEC.num_domains,
        previous_in_target_domain=np.full_like(BATCH.previous_in_target_domain, -1),
    )
    for part in (DisentangleConfig(codes=True), DisentangleConfig(codes=True, shared_rank=3, variational=True)):
        first, second = (encoded(config(part), batch).codes for batch in (BATCH, other))
        np.testing.assert_array_equal(first["shared"], second["shared"])
        assert np.abs(first["specific"] - second["specific"]).max() > 0.1


def test_the_specific_code_knows_one_domain() -> None:
    """Events of other domains may be exchanged for others of theirs."""
    item, asked = np.asarray(BATCH.item), 1
    elsewhere = (np.asarray(BATCH.segment) > 0) & (item % SPEC.num_domains != asked)
    moved = np.where(elsewhere, (item + 1) % 36 + 2, item)
    np.testing.assert_array_equal(moved % SPEC.num_domains, item % SPEC.num_domains)
    codes = [
        encoded(config(DisentangleConfig(codes=True)), dataclasses.replace(BATCH, item=x)).codes for x in (item, moved)
    ]
    there = (np.asarray(BATCH.target_domain) == asked) & (BATCH.segment > 0)
    np.testing.assert_allclose(codes[0]["specific"][there], codes[1]["specific"][there], rtol=1e-6)
    assert np.abs(codes[0]["shared"] - codes[1]["shared"])[there].max() > 0.1


def spread(batch: Batch, devices: int) -> tuple[Any, Any]:
    """The sum of all losses and its gradient, the batch's rows spread over some devices."""
    model, params = built(config(EVERYTHING))

    def local(params: Params, part: Batch) -> Any:
        row = jax.lax.axis_index(DATA) * part.item.shape[0]

        def loss(dense: Any) -> Any:
            rows = rows_of(model, dataclasses.replace(params, dense=dense), part)
            found = model.encode(dense, rows, part, key=jax.random.key(7), train=True, row_offset=row)
            return sum(found.losses.values(), jnp.float32(0.0)) + 1e-3 * found.h.sum(), found.losses

        (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(params.dense)
        return jax.lax.psum((losses, gradient), DATA)

    mesh = make_mesh(MeshConfig(devices))
    body = jax.shard_map(
        local, mesh=mesh, in_specs=(jax.P(), jax.P(DATA)), out_specs=(jax.P(), jax.P()), check_vma=False
    )
    return jax.jit(body)(jax.device_put(params, replicated(mesh)), jax.device_put(batch, by_row(mesh)))


def test_losses_and_gradients_do_not_depend_on_how_the_rows_are_spread() -> None:
    (losses, gradient), (again, same) = (spread(BATCH, devices) for devices in (1, 4))
    # The model scores codes by themselves elsewhere, as it does the state.
    assert losses.keys() == {"parts", "erase"} | (set(WEIGHTS) - {"shared_alone", "specific_alone", "across"})
    for name, loss in losses.items():
        assert loss != 0 or name == "parts"
        np.testing.assert_allclose(again[name], loss, rtol=2e-5, err_msg=name)
    flat, _ = jax.tree.flatten_with_path(gradient)
    for (path, one), other in zip(flat, jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max(), err_msg=jax.tree_util.keystr(path))
        assert np.abs(one).max() > 0, jax.tree_util.keystr(path)


def test_what_the_user_did_elsewhere_is_told_nothing_of_the_targets_domain() -> None:
    """Another item of the same domain moves no code of a target in that domain, and moves those of other targets."""
    part = DisentangleConfig(codes=True, across=1.0, shared_rank=3)
    model, params = built(config(part))

    @jax.jit
    def across(batch: Batch) -> jax.Array:
        return model.encode(
            params.dense, rows_of(model, params, batch), batch, key=jax.random.key(5), train=True
        ).codes["across"]  # fmt: skip

    item, asked = np.asarray(BATCH.item), 1
    inside = (np.asarray(BATCH.segment) > 0) & (item % SPEC.num_domains == asked)
    moved = np.where(inside, (item + SPEC.num_domains - 2) % 36 + 2, item)
    before, after = across(BATCH), across(dataclasses.replace(BATCH, item=moved))
    there = (np.asarray(BATCH.target_domain) == asked) & (BATCH.segment > 0)
    np.testing.assert_allclose(after[there], before[there], rtol=1e-5, atol=1e-6)
    assert np.abs(after - before)[~there].max() > 0.1
    assert (np.abs(before[there]).max(-1) > 0).any()


def test_a_shared_code_that_learns_from_its_own_losses_is_a_constant_in_the_state() -> None:
    for learns, moves in (("all", True), ("own", False)):
        fusion = module(shared_learns=learns, shared_rank=3)
        gradient = jax.grad(lambda f: jnp.square(f(*X, BATCH, None)[0]).sum())(fusion)
        assert (np.abs(gradient.shared_in.kernel.get_value()).max() > 0) == moves
        assert np.abs(gradient.specific_map.kernel.get_value()).max() > 0


def test_an_erased_code_has_as_many_directions_less() -> None:
    fusion = module(shared_rank=2, erase=True)
    codes = fusion(*X, BATCH, None)[1]
    values = np.linalg.svd(np.asarray(codes["specific"]).reshape(-1, 8), compute_uv=False)
    assert (values > 1e-2 * values[0]).sum() == 8 - 2


def module(**fields: Any) -> Disentangled:
    part = DisentangleConfig(codes=True, hidden=8, **fields)
    return Disentangled(jax.random.key(0), 8, SPEC.num_domains, part, norm="layernorm", rate=0.0, path_rank=0)


X = jax.random.normal(jax.random.key(1), (3, *BATCH.item.shape, 8))
SEEDS = row_seeds(jax.random.key(2), BATCH.item.shape[0], 0)


def test_the_adversary_learns_what_the_code_unlearns() -> None:
    """A step down its gradient helps the classifier and, taken by the code's projection, hurts it."""
    fusion = module(adversary=1.0)

    def loss(fusion: Disentangled) -> jax.Array:
        return fusion(*X, BATCH, SEEDS)[2]["adversary"]

    before, gradient = jax.jit(jax.value_and_grad(loss))(fusion)
    for name, sign in (("classifier", -1), ("shared_map", 1)):
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, getattr(fusion, name), getattr(gradient, name))
        other = jax.tree.map(lambda p: p, fusion)
        setattr(other, name, moved)
        assert np.sign(loss(other) - before) == sign, name


def test_the_specific_code_learns_to_give_its_domain_away_where_it_has_one() -> None:
    fusion = module(specific_domain=0.5)

    def loss(fusion: Disentangled, own: jax.Array = X[1]) -> jax.Array:
        return fusion(X[0], own, X[2], BATCH, SEEDS)[2]["specific_domain"]

    assert fusion.reader is not None
    logits = np.asarray(fusion.reader(fusion(*X, BATCH, None)[1]["specific"]))
    missed = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, BATCH.target_domain[..., None], -1)[..., 0]
    known = (BATCH.weight > 0) & (BATCH.previous_in_target_domain >= 0)
    assert 0 < known.sum() < (BATCH.weight > 0).sum()
    before, gradient = jax.value_and_grad(loss)(fusion)
    np.testing.assert_allclose(before, 0.5 * missed[known].sum(), rtol=1e-5)
    for name in ("reader", "specific_map"):
        other = jax.tree.map(lambda p: p, fusion)
        setattr(other, name, jax.tree.map(lambda p, g: p - 1e-3 * g, getattr(fusion, name), getattr(gradient, name)))
        assert loss(other) < before, name
    moved = np.any(np.asarray(jax.grad(loss, argnums=1)(fusion, X[1])) != 0, axis=-1)
    np.testing.assert_array_equal(moved, known)


def test_clubs_guess_and_the_codes_do_not_pull_at_each_other() -> None:
    """The guess follows the likelihood alone and the codes the bound alone, whatever the bound's weight."""

    def gradient(weight: float) -> Any:
        fusion = module(club=weight, sample=32)
        one = jax.vmap(lambda f: f(*X, BATCH, SEEDS)[2]["club"], axis_name=DATA, in_axes=None, axis_size=1)
        return jax.jit(jax.grad(lambda f: one(f)[0]))(fusion)

    weak, strong = gradient(0.1), gradient(0.4)
    for path in ("guess", "shared_map"):
        factor = 1.0 if path == "guess" else 4.0
        for a, b in zip(*(jax.tree.leaves(getattr(g, path)) for g in (weak, strong)), strict=True):
            np.testing.assert_allclose(b, factor * a, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_variational_codes_are_drawn_around_their_means() -> None:
    fusion = module(variational=True)
    _, means, _ = fusion(*X, BATCH, None)
    draws = jax.jit(jax.vmap(lambda key: fusion(*X, BATCH, row_seeds(key, BATCH.item.shape[0], 0))[1]["shared"]))(
        jax.random.split(jax.random.key(3), 400)
    )
    assert fusion.shared_spread is not None
    expected = np.exp(0.5 * np.asarray(fusion.shared_spread(X[0])))
    np.testing.assert_allclose(np.median(draws.std(0) / expected), 1.0, atol=0.02)
    np.testing.assert_allclose(np.median(np.abs(draws.mean(0) - means["shared"]) / expected), 0.0, atol=0.06)


def test_a_closed_gate_lets_one_code_through() -> None:
    fusion = module(fusion="gate")
    assert fusion.gate is not None
    assert fusion.gate.bias is not None
    fusion.gate.kernel.set_value(jnp.zeros_like(fusion.gate.kernel.get_value()))
    for bias, expected in ((0.0, lambda c: c["shared"] + c["specific"]), (30.0, lambda c: 2 * c["shared"])):
        fusion.gate.bias.set_value(jnp.full((8,), bias))
        state, codes, _ = fusion(*X, BATCH, None)
        np.testing.assert_allclose(state, expected(codes), rtol=1e-5, atol=1e-6)


def test_what_stays_with_the_domains() -> None:
    dense = built(config(EVERYTHING))[0].facts.dense["fusion"]
    assert dense["shared_map"]["kernel"].scope == "shared"
    assert dense["paths"]["up"].scope == dense["null"].scope == "private"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mmd": 1.0}, "disentangle.mmd"),
        ({"codes": True, "hsic": -1.0}, "disentangle.hsic"),
        ({"codes": True, "kl": 1.0}, "disentangle.kl"),
        ({"codes": True, "shared_rank": -1}, "disentangle.shared_rank"),
        ({"codes": True, "erase": True}, "disentangle.erase"),
        ({"across": 1.0}, "disentangle.across"),
        ({"codes": True, "temperature": 0.0}, "temperature"),
        ({"codes": True, "kernel": "cubic"}, "kernel"),
        ({"codes": True, "sample": 0}, "sample"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DisentangleConfig(**fields)


def test_codes_need_the_in_domain_view() -> None:
    with pytest.raises(ConfigError, match=r"disentangle\.codes"):
        MdrecConfig(FLAGSHIP, disentangle=DisentangleConfig(codes=True))
    assert MdrecConfig(FLAGSHIP, **PARTS["views"]).disentangle == DisentangleConfig()
