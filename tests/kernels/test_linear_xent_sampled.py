"""Sampled losses over shared negatives."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels.linear_xent import (
    binary_loss,
    gbce_beta,
    sampled_bce_sum,
    sampled_xent_sum,
    softmax_loss,
)

from tests.kernels.xent_cases import Case, by_formula, distance, make_case, wide

GBCE = partial(sampled_bce_sum, beta=0.3)
LOSSES = pytest.mark.parametrize("loss", [sampled_xent_sum, GBCE], ids=["softmax", "gbce"])


def negatives_of(case: Case, S: int = 40) -> np.ndarray:
    return np.random.default_rng(1).integers(0, case.w.shape[0], S).astype(np.int32)


@cache
def compiled(loss, options: tuple):
    def run(case: Case, ids, arrays):
        return jax.value_and_grad(
            lambda *a: loss(*a, **arrays, **dict(options)),
            argnums=(0, 1, 2, 3),
        )(case.x, jnp.asarray(case.w)[case.target], jnp.asarray(case.w)[ids], case.weight)

    return jax.jit(run)


def with_gradient(loss, case: Case, ids: np.ndarray, arrays: dict | None = None, **options):
    """Value and gradient by states, targets' rows, negatives' rows and weights."""
    return compiled(loss, tuple(options.items()))(case, ids, arrays or {})


@LOSSES
@pytest.mark.parametrize("tokens", [16, 70, 1000])
def test_value_and_gradient_are_the_formulas(loss, tokens: int) -> None:
    case = make_case()
    ids = negatives_of(case)
    arrays = {
        "positive_id": case.target,
        "negative_id": ids,
        "group": case.group,
        "negative_group": ids % 3,
    }
    if loss is sampled_xent_sum:
        arrays |= {"positive_logq": -case.weight, "negative_logq": case.w[:40, 0]}
    found = with_gradient(loss, case, ids, arrays, tokens=tokens)
    assert distance(found, with_gradient(loss, case, ids, arrays, implementation="reference")) < 2e-6


@LOSSES
def test_in_float64_to_the_last_digits(loss) -> None:
    with jax.enable_x64(True):
        case = make_case(dtype=np.float64)
        ids = negatives_of(case)
        found = with_gradient(loss, case, ids, tokens=16)
        assert distance(found, with_gradient(loss, case, ids, implementation="reference")) < 1e-13


@LOSSES
def test_bfloat16_errs_at_most_twice_as_much_as_the_formula_in_bfloat16(loss) -> None:
    case = make_case(N=200, D=64)
    ids = negatives_of(case, 100)
    case = replace(case, x=case.x.astype(jnp.bfloat16), w=case.w.astype(jnp.bfloat16))
    exact = replace(case, x=case.x.astype(np.float32), w=case.w.astype(np.float32))
    results = (
        with_gradient(loss, case, ids, tokens=64),
        with_gradient(loss, case, ids, implementation="reference"),
        with_gradient(loss, exact, ids, implementation="reference"),
    )
    for a, b, c in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        error, allowed = (np.sqrt(np.mean((wide(v) - wide(c)) ** 2)) for v in (a, b))
        assert error <= 2 * allowed + 1e-6 * np.max(np.abs(wide(c)))


def test_with_every_item_as_a_negative_once_it_is_the_full_softmax() -> None:
    case = make_case()
    every = np.arange(case.w.shape[0])
    loss, (dx, *_) = with_gradient(sampled_xent_sum, case, every, {"positive_id": case.target, "negative_id": every})
    expected, (expected_dx, *_) = by_formula(case, masked=False)
    assert distance((loss, dx), (expected, expected_dx)) < 2e-6


def test_correcting_for_how_often_items_are_drawn_estimates_the_full_softmax() -> None:
    # 20,000 draws from a skewed distribution; every item is drawn often, so the estimate is close.
    case = make_case(N=8, V=31, D=4, G=1)
    probability = np.linspace(1, 20, 31) / np.linspace(1, 20, 31).sum()
    ids = np.random.default_rng(0).choice(31, 20_000, p=probability)
    logq = np.log(20_000 * probability).astype(np.float32)
    arrays = {"negative_logq": logq[ids], "positive_id": case.target, "negative_id": ids}
    loss, _ = with_gradient(sampled_xent_sum, case, ids, arrays)
    np.testing.assert_allclose(loss, by_formula(case, masked=False)[0], rtol=0.01)


@LOSSES
def test_a_negative_that_is_the_target_itself_is_as_if_not_drawn(loss) -> None:
    case = replace(make_case(), target=np.full(70, 9, np.int32))
    ids = negatives_of(case)
    ids[:7] = 9
    others = ids[ids != 9]
    found = with_gradient(loss, case, ids, {"positive_id": case.target, "negative_id": ids})
    expected = with_gradient(loss, case, others)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert not np.any(np.asarray(found[1][2])[ids == 9])


@LOSSES
def test_a_token_sees_only_the_negatives_of_its_group(loss) -> None:
    case = make_case()
    ids = np.arange(39, dtype=np.int32)
    together, _ = with_gradient(loss, case, ids, {"group": case.group, "negative_group": ids % 3})
    weights = [np.where(case.group == g, case.weight, 0) for g in range(3)]
    apart = [with_gradient(loss, replace(case, weight=weights[g]), ids[g::3])[0] for g in range(3)]
    np.testing.assert_allclose(together, sum(apart), rtol=1e-5)


@LOSSES
def test_without_weights_or_negatives_that_count_nothing_is_not_a_number(loss) -> None:
    case = make_case()
    ids = negatives_of(case)
    nowhere = {"group": np.zeros_like(case.group), "negative_group": np.ones_like(ids)}
    found = with_gradient(loss, case, ids, nowhere)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    empty = replace(case, x=np.full_like(case.x, np.nan), weight=np.zeros_like(case.weight))
    found = with_gradient(loss, empty, ids, nowhere)
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(found))


def test_huge_scores_stay_finite_and_exact() -> None:
    positive, negative = jnp.asarray([1e4, -1e4]), jnp.asarray([[-1e4, 1e4], [1e4, 1e4]])
    keep = jnp.asarray([[True, False], [True, True]])
    np.testing.assert_allclose(softmax_loss(positive, negative, keep), [0, 2e4 + np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(binary_loss(positive, negative, keep, jnp.ones(2)), [0, 1e4], rtol=1e-6)


def test_beta_runs_from_plain_cross_entropy_to_the_sampling_rate() -> None:
    assert gbce_beta(256, 1001, 0.0) == 1.0
    assert gbce_beta(256, 1001, 1.0) == pytest.approx(0.256)
    assert gbce_beta(256, 1001, 0.75) == pytest.approx(0.256 * (0.75 * (1 - 1 / 0.256) + 1 / 0.256))
    with pytest.raises(ValueError, match="calibration"):
        gbce_beta(256, 1001, 1.5)


def test_gbce_is_cross_entropy_with_a_power_of_the_positive_probability() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.standard_normal(5), rng.standard_normal((5, 8))

    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    expected = -(np.log(sigmoid(positive) ** 0.4) + np.log(1 - sigmoid(negative)).sum(1)) / 9
    found = binary_loss(
        jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32), jnp.ones((5, 8), bool), jnp.full(5, 0.4)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    case = jax.tree.map(jnp.asarray, make_case())
    rows = case.w[case.target]
    with pytest.raises(ValueError, match="given together"):
        sampled_xent_sum(case.x, rows, case.w[:5], case.weight, positive_id=case.target)
    with pytest.raises(ValueError, match="a positive row for each token"):
        sampled_xent_sum(case.x, rows[:3], case.w[:5], case.weight)
    with pytest.raises(ValueError, match="expected a positive_id for each"):
        sampled_xent_sum(
            case.x, rows, case.w[:5], case.weight, positive_id=case.target[:3], negative_id=case.target[:5]
        )
