"""The kernels for TPUs, interpreted: the formula's values and gradients for any catalogue, and exact top-k."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from mdrec_kernels import tpu
from mdrec_kernels.linear_xent import Blocks, linear_xent, linear_xent_sum, top_k

from tests.kernels.test_linear_xent import formula, gradient
from tests.kernels.test_top_k import best, by_hand, whole_numbers
from tests.kernels.xent_cases import at_another_place, by_formula, distance, make_case, wide

TILE = Blocks(16, 32)


def by_kernels(case, of=linear_xent_sum, masked: bool = True, tile: Blocks = TILE, **options):
    with tpu.interpreted():
        return gradient(case, of, masked, blocks=tile, implementation="pallas_tpu", **options)


def one_group(case):
    return replace(case, allowed=case.allowed[case.group[:1]], group=np.zeros_like(case.group))


@pytest.mark.parametrize("of", [linear_xent_sum, linear_xent])
def test_value_and_gradient_are_the_formulas(of) -> None:
    case = make_case(N=40)
    assert distance(by_kernels(case, of), formula(case, of)) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("of", [linear_xent_sum, linear_xent])
def test_so_are_they_without_groups_and_in_float64_with_z_loss(of) -> None:
    case = make_case()
    assert distance(by_kernels(case, of, masked=False), formula(case, of, masked=False)) < 2e-6
    with jax.enable_x64(True):
        case = make_case(dtype=np.float64)
        assert distance(by_kernels(case, of, z_loss=1e-2), formula(case, of, z_loss=1e-2)) < 1e-13


@settings(max_examples=3, deadline=None, derandomize=True)
@given(V=st.sampled_from([2, 31, 97, 127, 509]), D=st.integers(1, 20), N=st.integers(1, 40))
def test_any_length_of_the_catalogue(V: int, D: int, N: int) -> None:
    target = np.random.default_rng(V).integers(0, V, N).astype(np.int32)
    case = replace(make_case(N, V, D, G=1, seed=V), target=target)
    found = by_kernels(case, masked=False)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(by_formula(case, masked=False)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(place=st.integers(0, 39), seed=st.integers(1, 99))
def test_a_token_gets_the_same_at_any_place_beside_any_others(place: int, seed: int) -> None:
    case = make_case(N=40)
    token = int(np.argmax(case.weight))
    _, (dx, _, losses) = by_kernels(at_another_place(case, token, place, seed))
    _, (expected_dx, _, expected) = by_formula(case)
    assert distance((dx[place], losses[place]), (expected_dx[token], expected[token])) < 2e-6


def test_one_mask_for_all_and_huge_scores_and_dead_tokens_of_any_content() -> None:
    # The target may be masked out in the only group: give every token one that is not.
    case = one_group(make_case(N=40))
    case = replace(case, target=np.full_like(case.target, 101 // 2), x=case.x * np.float32(1e3))
    dead = case.weight == 0
    junk = replace(case, x=np.where(dead[:, None], np.float32(np.nan), case.x))
    found = by_kernels(junk)
    assert distance(found, by_formula(case)) < 1e-5
    assert not np.any(np.asarray(found[1][0])[dead])


def test_without_any_weight_loss_and_gradient_are_zero() -> None:
    case = make_case(N=40)
    empty = replace(case, x=np.full_like(case.x, np.nan), weight=np.zeros_like(case.weight))
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(by_kernels(empty)))


@pytest.mark.parametrize("of", [linear_xent_sum, linear_xent])
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(of) -> None:
    case = make_case(N=64, V=509, D=64)
    case = replace(case, x=case.x.astype(jnp.bfloat16), w=(0.3 * case.w).astype(jnp.bfloat16))
    ours, plain = by_kernels(case, of, tile=Blocks(64, 128)), gradient(case, of, implementation="reference")
    for a, b, c in zip(*(jax.tree.leaves(t) for t in (ours, plain, formula(case, of))), strict=True):
        error, allowed = (np.sqrt(np.mean((wide(v) - wide(c)) ** 2)) for v in (a, b))
        assert error <= 2 * allowed + 1e-6 * np.max(np.abs(wide(c)))


@pytest.mark.slow
def test_gradients_are_the_slopes_of_the_function() -> None:
    with jax.enable_x64(True), tpu.interpreted():
        case = jax.tree.map(jnp.asarray, make_case(N=5, V=11, D=3, G=2, dtype=np.float64))
        options = {"allowed": case.allowed, "group": case.group, "z_loss": 0.1}
        options |= {"blocks": Blocks(4, 8), "implementation": "pallas_tpu"}

        def loss(x, w):
            return jnp.sum(jnp.sin(linear_xent(x, w, case.target, **options)))

        check_grads(jax.jit(loss), (case.x, case.w), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("V", [101, pytest.param(128, marks=pytest.mark.slow)])
def test_top_k_is_equal_to_sorting_by_hand(V: int) -> None:
    case = whole_numbers(make_case(N=40, V=V, D=4))
    arrays = {"allowed": case.allowed, "group": case.group, "exclude": case.exclude}
    with tpu.interpreted():
        scores, ids = best(case.x, case.w, 12, arrays, blocks=TILE, implementation="pallas_tpu")
    expected_scores, expected_ids, *_ = by_hand(case, 12)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


def test_top_k_without_masks_and_with_fewer_items_than_k() -> None:
    case = make_case(G=1)
    few = (np.arange(101) % 40 == 5)[None, :]
    with tpu.interpreted():
        scores, ids = best(case.x, case.w, 10, {"allowed": few}, blocks=TILE, implementation="pallas_tpu")
        plain = best(case.x, case.w, 10, blocks=TILE, implementation="pallas_tpu")
    assert sorted(np.asarray(ids[0]).tolist()) == [0] * 7 + [5, 45, 85]
    assert np.all(np.isneginf(scores[:, 3:]))
    np.testing.assert_array_equal(plain[1], best(case.x, case.w, 10)[1])


def test_what_the_kernels_cannot_take_is_said() -> None:
    x, w, target = jnp.ones((8, 4)), jnp.ones((16, 4)), jnp.zeros(8, jnp.int32)
    with pytest.raises(NotImplementedError, match="platform is cpu"):
        linear_xent(x, w, target, implementation="pallas_tpu")
    with tpu.interpreted(), pytest.raises(NotImplementedError, match="at most 256"):
        top_k(x, jnp.ones((1000, 4)), 300, implementation="pallas_tpu")
    wide_rows = jax.ShapeDtypeStruct((8, 65_536), jnp.float32)
    with tpu.interpreted(), pytest.raises(NotImplementedError, match="VMEM"):
        jax.eval_shape(partial(linear_xent, target=target, implementation="pallas_tpu"), wide_rows, wide_rows)
