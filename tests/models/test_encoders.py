"""What must hold for the states of every model."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.models.api import Model, ModelConfig
from mdrec_jax.objectives.routers import router_losses
from mdrec_jax.types import Batch, Params
from tests.models.make import (
    HSTU,
    SASREC,
    SPEC,
    VARIANTS,
    built,
    pack,
    random_sequences,
    relative_error,
    rows_of,
    states,
)

every_model = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
both_families = pytest.mark.parametrize("config", [SASREC, HSTU], ids=["sasrec", "hstu"])
SEQUENCES = random_sequences(0, [5, 7, 3, 9, 1, 12])
TWO_ROWS = pack([SEQUENCES[:3], SEQUENCES[3:]])


@every_model
def test_a_state_for_every_token(config: ModelConfig) -> None:
    model, params = built(config)
    h = states(model, params, TWO_ROWS)
    assert h.shape == (*TWO_ROWS.item.shape, config.dim)
    assert h.dtype == jnp.float32


@every_model
def test_states_are_finite_also_at_padding_and_in_empty_rows(config: ModelConfig) -> None:
    model, params = built(config)
    assert jnp.isfinite(states(model, params, pack([SEQUENCES[:1], []]))).all()


@every_model
def test_a_later_event_never_changes_an_earlier_state(config: ModelConfig) -> None:
    model, params = built(config)
    sequence = SEQUENCES[5]
    before = states(model, params, pack([[sequence]]))
    for changed in range(len(sequence)):
        other = [*sequence[:changed], 2 + (sequence[changed] + 5) % 38, *sequence[changed + 1 :]]
        after = states(model, params, pack([[other]]))
        np.testing.assert_array_equal(after[0, :changed], before[0, :changed])
        assert not np.allclose(after[0, changed], before[0, changed])


@every_model
def test_every_earlier_event_changes_a_later_state(config: ModelConfig) -> None:
    model, params = built(config)
    sequence = SEQUENCES[5]
    before = states(model, params, pack([[sequence]]))[0, len(sequence) - 1]
    for changed in range(len(sequence)):
        other = [*sequence[:changed], 2 + (sequence[changed] + 5) % 38, *sequence[changed + 1 :]]
        after = states(model, params, pack([[other]]))[0, len(sequence) - 1]
        assert not np.allclose(after, before, rtol=1e-4)


@every_model
def test_a_user_alone_has_the_states_that_it_has_at_any_place_of_a_packed_row(config: ModelConfig) -> None:
    model, params = built(config)
    user = SEQUENCES[1]
    alone = states(model, params, pack([[user]]))[0, : len(user)]
    for before in ([], SEQUENCES[:1], [SEQUENCES[0], SEQUENCES[2]], [SEQUENCES[3], SEQUENCES[4]]):
        start = sum(map(len, before))
        packed = states(model, params, pack([[*before, user, SEQUENCES[2]]]))
        assert relative_error(packed[0, start : start + len(user)], alone) < 1e-5
    shifted = states(model, params, pack([[user]], offset=9))
    assert relative_error(shifted[0, 9 : 9 + len(user)], alone) < 1e-5


@every_model
def test_rows_do_not_depend_on_each_other(config: ModelConfig) -> None:
    model, params = built(config)
    alone = states(model, params, pack([SEQUENCES[3:]]))
    assert relative_error(states(model, params, TWO_ROWS)[1], alone[0]) < 1e-5


@both_families
def test_scanned_and_rematerialised_blocks_give_what_plain_ones_give(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"plain": (6, False), "scanned": (1, False), "rematerialised": (6, True), "both": (1, True)}
    values, programs = {}, set()
    for name, (scan_from, remat) in options.items():
        monkeypatch.setattr("mdrec_jax.models.layers.stack.SCAN_FROM_LAYERS", scan_from)
        model, params = built(replace(config, remat=remat))
        loss = jax.value_and_grad(partial(_training_loss, model, params, TWO_ROWS))
        if config is SASREC or name in ("plain", "both"):
            values[name] = jax.jit(loss)(params.dense)
        programs.add(str(jax.make_jaxpr(loss)(params.dense)))
    assert len(programs) == len(options), "the switches must make different programs"
    for name, value in values.items():
        for found, expected in zip(*map(jax.tree.leaves, (value, values["plain"])), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def _training_loss(model: Model, params: Params, batch: Batch, dense: dict[str, Any]) -> jax.Array:
    h = model.encode(dense, rows_of(model, params, batch), batch, key=jax.random.key(3), train=True).h
    return (h * jnp.cos(jnp.arange(h.size, dtype=h.dtype)).reshape(h.shape)).sum()


@every_model
def test_every_parameter_and_every_input_row_has_a_finite_gradient_that_is_not_zero(config: ModelConfig) -> None:
    model, params = built(config)

    def loss(dense, table):
        rows = {"item": replace(rows_of(model, params, TWO_ROWS)["item"], values=table)}
        encoded = model.encode(dense, rows, TWO_ROWS, key=jax.random.key(0), train=True)
        h, real = encoded.h, jnp.asarray(TWO_ROWS.segment > 0)[:, :, None]
        own = sum(router_losses(encoded.traces).values(), jnp.float32(0.0))
        return (jnp.where(real, h, 0) * jnp.cos(jnp.arange(h.size, dtype=h.dtype)).reshape(h.shape)).sum() + own

    dense, table = jax.jit(jax.grad(loss, argnums=(0, 1)))(params.dense, params.tables["item"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(dense):
        assert jnp.isfinite(leaf).all(), path
        # What reads the domain from codes is trained by the objectives that ask for it.
        assert jnp.abs(leaf).max() > 0 or "readers" in jax.tree_util.keystr(path), path
    assert jnp.isfinite(table).all()
    touched = np.unique(TWO_ROWS.item[TWO_ROWS.item > 0])
    assert (jnp.abs(table[touched]).max(-1) > 0).all()
    untouched = np.setdiff1d(np.arange(table.shape[0]), touched)
    assert not table[untouched].any(), "padding must not move any row, row 0 neither"


@every_model
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_never_mix_by_accident(config: ModelConfig, dtype) -> None:
    model, params = built(config)
    expected = states(model, params, TWO_ROWS)
    with jax.numpy_dtype_promotion("strict"):
        h = states(model, params, TWO_ROWS, dtype=dtype)
        training = partial(states, model, batch=TWO_ROWS, dtype=dtype, train=True, key=jax.random.key(0))
        trained = jax.eval_shape(training, params)
        gradient = jax.grad(lambda dense: states(model, replace(params, dense=dense), TWO_ROWS, dtype=dtype).sum())
        gradients = jax.eval_shape(gradient, params.dense)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    assert h.dtype == trained.dtype == dtype
    real = TWO_ROWS.segment > 0
    assert relative_error(h.astype(jnp.float32)[real], expected[real]) < (1e-6 if dtype == jnp.float32 else 0.1)


@both_families
def test_a_float64_model_is_float64_throughout(config: ModelConfig) -> None:
    with jax.enable_x64(True):
        model, params = built(config)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        wide = states(model, params, TWO_ROWS, dtype=jnp.float64)
        narrow = states(model, params, TWO_ROWS, dtype=jnp.float32)
        assert wide.dtype == jnp.float64
        real = TWO_ROWS.segment > 0
        assert 0 < relative_error(narrow[real], wide[real]) < 1e-4


@both_families
def test_rows_of_any_mode_give_the_same_states(config: ModelConfig) -> None:
    model, params = built(config)
    ids, index = np.unique(TWO_ROWS.item, return_inverse=True)
    full = rows_of(model, params, TWO_ROWS)["item"]
    few = replace(full, values=full.values[ids], index={"input": jnp.asarray(index.reshape(TWO_ROWS.item.shape))})
    encode = partial(model.encode, params.dense, batch=TWO_ROWS, key=None, train=False)
    np.testing.assert_array_equal(encode({"item": few}).h, encode({"item": full}).h)


def test_item_vectors_are_the_rows_asked_for() -> None:
    model, params = built(SASREC)
    negatives = jnp.asarray([7, 3, 7])
    rows = rows_of(model, params, TWO_ROWS, negatives=negatives)
    table = params.tables["item"]
    np.testing.assert_array_equal(model.item_vectors(params.dense, rows, None, "negatives"), table[negatives])
    np.testing.assert_array_equal(model.item_vectors(params.dense, rows, None, None), table)
    np.testing.assert_array_equal(model.item_vectors(params.dense, rows, None, "input"), table[TWO_ROWS.item])


def test_cosine_scores_lie_within_one_over_the_temperature() -> None:
    model, params = built(replace(SASREC, temperature=0.25))
    vectors = model.scored_items(model.item_vectors(params.dense, rows_of(model, params, TWO_ROWS), None, None))
    scores = states(model, params, TWO_ROWS) @ vectors.T
    assert 0.5 < jnp.abs(scores).max() * 0.25 <= 1.0 + 1e-6


def test_the_unknown_and_the_padding_item_start_at_zero_and_real_items_do_not() -> None:
    table = built(SASREC)[1].tables["item"]
    assert table.shape == (48, 8)
    real = (np.arange(48) >= 2) & (np.arange(48) < SPEC.num_items)
    np.testing.assert_array_equal(np.abs(table).max(-1) > 0, real)


@both_families
def test_positions_past_the_window_share_the_last_one(config: ModelConfig) -> None:
    model, params = built(config)
    longer = random_sequences(1, [40])
    h = states(model, params, pack([longer], 40))
    assert jnp.isfinite(h).all()
    reach = config.attention_window * config.layers
    assert reach < 39
    changed = pack([[[2 + longer[0][0] % 30, *longer[0][1:]]]], 40)
    other = states(model, params, changed)
    np.testing.assert_array_equal(other[0, reach:], h[0, reach:])
    assert not np.allclose(other[0, 15], h[0, 15]), "the last token that sees the first"
