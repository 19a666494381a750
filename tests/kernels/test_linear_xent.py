"""Cross entropy over the whole catalogue is the formula's, in value and gradient, however the work is cut."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdrec_kernels.linear_xent import Blocks, linear_xent, linear_xent_sum

from tests.kernels.xent_cases import Case, at_another_place, by_formula, distance, make_case, wide

WHOLE_ROWS, TWO_PASSES = Blocks(16, 1000), Blocks(16, 30)
CUTS = pytest.mark.parametrize("blocks", [WHOLE_ROWS, TWO_PASSES], ids=["whole rows", "two passes"])


@cache
def compiled(of, masked: bool, options: tuple):
    """Value and gradient of the weighted sum, by states, items and (`linear_xent_sum` alone) weights."""

    def run(case: Case):
        groups = {"allowed": case.allowed, "group": case.group} if masked else {}

        def loss(x, w, weight):
            if of is linear_xent_sum:
                return linear_xent_sum(x, w, case.target, weight, **groups, **dict(options))
            return jnp.sum(weight * linear_xent(x, w, case.target, **groups, **dict(options)))

        by = (0, 1, 2) if of is linear_xent_sum else (0, 1)
        return jax.value_and_grad(loss, argnums=by)(case.x, case.w, case.weight)

    return jax.jit(run)


def gradient(case: Case, of=linear_xent_sum, masked: bool = True, **options):
    return compiled(of, masked, tuple(options.items()))(case)


def formula(case: Case, of=linear_xent_sum, **options):
    """What `gradient` should give."""
    value, gradients = by_formula(case, **options)
    return value, gradients if of is linear_xent_sum else gradients[:2]


FORMS = pytest.mark.parametrize("of", [linear_xent_sum, linear_xent])


@pytest.mark.parametrize(
    "options",
    [{"implementation": "reference"}, {}, {"blocks": WHOLE_ROWS}, {"blocks": TWO_PASSES}],
    ids=["reference", "default", "whole rows", "two passes"],
)
@FORMS
def test_value_and_gradient_are_the_formulas(of, options) -> None:
    case = make_case()
    assert distance(gradient(case, of, **options), formula(case, of)) < 2e-6


@CUTS
def test_so_are_they_without_a_mask(blocks) -> None:
    case = make_case()
    assert distance(gradient(case, masked=False, blocks=blocks), formula(case, masked=False)) < 2e-6


@CUTS
@FORMS
def test_in_float64_with_z_loss_to_the_last_digits(of, blocks) -> None:
    with jax.enable_x64(True):
        case = make_case(dtype=np.float64)
        found = gradient(case, of, blocks=blocks, z_loss=1e-2)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(found))
        assert distance(found, formula(case, of, z_loss=1e-2)) < 1e-13


@settings(max_examples=6, deadline=None)
@given(
    N=st.integers(1, 40),
    V=st.sampled_from([2, 3, 5, 7, 31, 97, 127, 509]),
    D=st.integers(1, 20),
    tokens=st.integers(1, 50),
    items=st.integers(1, 600),
)
def test_any_length_of_the_catalogue_and_any_cut(N: int, V: int, D: int, tokens: int, items: int) -> None:
    case = make_case(N, V, D, G=2, seed=V)
    found = gradient(case, blocks=Blocks(tokens, items))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(by_formula(case)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@CUTS
def test_without_any_weight_loss_and_gradient_are_zero_whatever_the_states_hold(blocks) -> None:
    case = make_case()
    empty = replace(case, x=np.full_like(case.x, np.nan), weight=np.zeros_like(case.weight))
    for leaf in jax.tree.leaves(gradient(empty, blocks=blocks)):
        assert not np.any(np.asarray(leaf))


@CUTS
def test_a_token_without_weight_has_no_part_in_anything(blocks) -> None:
    case = make_case()
    dead = case.weight == 0
    junk = replace(
        case,
        x=np.where(dead[:, None], np.float32(np.nan), case.x),
        target=np.where(dead, np.int32(-7), case.target),
        group=np.where(dead, np.int32(99), case.group),
    )
    jax.tree.map(np.testing.assert_array_equal, gradient(junk, blocks=blocks), gradient(case, blocks=blocks))


@CUTS
def test_where_only_the_target_is_allowed_the_loss_is_zero(blocks) -> None:
    case = make_case()
    allowed = np.zeros_like(case.allowed)
    allowed[:, 13] = True
    loss, gradients = gradient(replace(case, target=np.full_like(case.target, 13), allowed=allowed), blocks=blocks)
    assert abs(float(loss)) < 1e-4
    assert max(float(np.max(np.abs(g))) for g in gradients) < 1e-4


@CUTS
def test_a_target_that_is_not_allowed_is_infinitely_surprising(blocks) -> None:
    case = make_case()
    token = int(np.argmax(case.weight))
    allowed = case.allowed.copy()
    allowed[case.group[token], case.target[token]] = False
    loss, (_, _, losses) = gradient(replace(case, allowed=allowed), blocks=blocks)
    assert np.isposinf(loss)
    assert np.isposinf(losses[token])
    assert np.all(np.isfinite(losses[case.target != case.target[token]]))


@CUTS
@FORMS
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_huge_scores_stay_exact(of, blocks, scale: float) -> None:
    case = make_case()
    scaled = replace(case, x=case.x * np.float32(scale))
    assert distance(gradient(scaled, of, blocks=blocks), formula(scaled, of)) < 1e-5


@CUTS
def test_a_bound_far_above_every_score_costs_no_precision(blocks) -> None:
    # One long row, at right angles to all states: |x| max|w| is 1e4 times the largest score.
    case = make_case()
    x, w = case.x.copy(), case.w.copy()
    x[:, 0], w[5], w[5, 0] = 0, 0, 1e5
    loss, (dx, dw, _) = gradient(replace(case, x=x, w=w), blocks=blocks)
    expected, (expected_dx, expected_dw, _) = by_formula(replace(case, x=x, w=w))
    # The long row alone makes the first column of dx: it would hide the others' errors.
    assert distance((loss, dx[:, 1:], dw), (expected, expected_dx[:, 1:], expected_dw)) < 5e-6


@CUTS
@FORMS
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(of, blocks) -> None:
    case = make_case(N=200, V=509, D=64)
    case = replace(case, x=case.x.astype(jnp.bfloat16), w=(0.3 * case.w).astype(jnp.bfloat16))
    ours, plain = gradient(case, of, blocks=blocks), gradient(case, of, implementation="reference")
    assert ours[0].dtype == jnp.float32
    assert ours[1][0].dtype == jnp.bfloat16
    for a, b, c in zip(*(jax.tree.leaves(t) for t in (ours, plain, formula(case, of))), strict=True):
        error, allowed = (np.sqrt(np.mean((wide(v) - wide(c)) ** 2)) for v in (a, b))
        assert error <= 2 * allowed + 1e-6 * np.max(np.abs(wide(c)))


def test_items_of_another_type_are_read_as_the_states_and_keep_their_type_in_the_gradient() -> None:
    case = make_case()
    mixed = replace(case, x=case.x.astype(jnp.bfloat16))
    dw = gradient(mixed, blocks=WHOLE_ROWS)[1][1]
    rounded = gradient(replace(mixed, w=case.w.astype(jnp.bfloat16)), blocks=WHOLE_ROWS)[1][1]
    assert dw.dtype == jnp.float32
    np.testing.assert_array_equal(dw.astype(jnp.bfloat16), rounded)


@CUTS
def test_rows_past_the_catalogues_end_change_nothing_and_get_no_gradient(blocks) -> None:
    case = make_case()
    w = np.pad(case.w, ((0, 19), (0, 0)), constant_values=3.0)
    padded = replace(case, w=w, allowed=np.pad(case.allowed, ((0, 0), (0, 19))))
    loss, (dx, dw, dweight) = gradient(padded, blocks=blocks)
    assert distance((loss, (dx, dw[:101], dweight)), by_formula(case)) < 2e-6
    assert not np.any(np.asarray(dw[101:]))


@CUTS
@settings(max_examples=6, deadline=None, derandomize=True)
@given(place=st.integers(0, 39), seed=st.integers(1, 99))
def test_a_token_gets_the_same_at_any_place_beside_any_others(blocks, place: int, seed: int) -> None:
    case = make_case(N=40)
    token = int(np.argmax(case.weight))
    _, (dx, _, losses) = gradient(at_another_place(case, token, place, seed), blocks=blocks)
    _, (expected_dx, _, expected) = by_formula(case)
    assert distance((dx[place], losses[place]), (expected_dx[token], expected[token])) < 2e-6


@CUTS
def test_the_order_of_the_tokens_does_not_matter(blocks) -> None:
    case = make_case()
    order = np.random.default_rng(1).permutation(case.x.shape[0])
    mixed = replace(case, **{name: getattr(case, name)[order] for name in ("x", "target", "weight", "group")})
    loss, (dx, dw, dweight) = gradient(case, blocks=blocks)
    assert distance(gradient(mixed, blocks=blocks), (loss, (dx[order], dw, dweight[order]))) < 2e-6


def test_without_differentiation_no_gradient_is_made() -> None:
    case = make_case()

    def products(f) -> int:
        return str(jax.make_jaxpr(f)(jnp.asarray(case.x))).count("dot_general")

    def loss(x):
        return linear_xent_sum(x, case.w, case.target, case.weight, blocks=WHOLE_ROWS)

    assert products(loss) == 1
    assert products(jax.value_and_grad(loss)) == 3


@CUTS
def test_the_same_call_gives_the_same_bits(blocks) -> None:
    case = make_case()
    jax.tree.map(np.testing.assert_array_equal, gradient(case, blocks=blocks), gradient(case, blocks=blocks))


def test_what_does_not_fit_is_refused() -> None:
    case = jax.tree.map(jnp.asarray, make_case())
    with pytest.raises(ValueError, match=r"items \[V, D\]"):
        linear_xent_sum(case.x, case.w[:, :3], case.target, case.weight)
    with pytest.raises(ValueError, match="every row needs a group"):
        linear_xent_sum(case.x, case.w, case.target, case.weight, allowed=case.allowed)
    with pytest.raises(ValueError, match="expected a weight for each"):
        linear_xent_sum(case.x, case.w, case.target, case.weight[:5])
    with pytest.raises(ValueError, match="float16"):
        linear_xent(case.x.astype(jnp.float16), case.w, case.target)
    with pytest.raises(ValueError, match=r"'nonsense'"):
        linear_xent(case.x, case.w, case.target, implementation="nonsense")
    with pytest.raises(ValueError, match="at least one token"):
        Blocks(0, 4)
