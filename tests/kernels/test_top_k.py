"""Top-k and ranks are exact: ties, masks and left-out items included, however the work is cut."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdrec_kernels.linear_xent import Blocks, target_rank, top_k

from tests.kernels.xent_cases import Case, make_case

CUTS = pytest.mark.parametrize("blocks", [Blocks(16, 1000), Blocks(16, 30)], ids=["whole rows", "two passes"])


@cache
def compiled(of, options: tuple):
    return jax.jit(partial(of, **dict(options)))


def best(x, w, k: int, arrays: dict | None = None, **options):
    return compiled(top_k, (("k", k), *options.items()))(x, w, **(arrays or {}))


def rank(x, w, target, arrays: dict | None = None, **options):
    return compiled(target_rank, tuple(options.items()))(x, w, target, **(arrays or {}))


def whole_numbers(case: Case) -> Case:
    """States and items of small whole numbers: scores are exact, and many are equal."""
    return replace(case, x=np.round(case.x), w=np.round(case.w))


def by_hand(case: Case, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores and ids of the top k, and how many stand above and beside the target: one query after the other."""
    x, w, allowed = case.x, case.w, case.allowed
    scores, ids, higher, ties = [], [], [], []
    for q, group in enumerate(case.group):
        score = x[q] @ w.T
        out = {int(e) for e in case.exclude[q] if e > 0}
        target = int(case.target[q])
        left = [v for v in range(len(w)) if allowed[group, v] and v not in out]
        best = sorted(left, key=lambda v: (-score[v], v))[:k]
        scores.append([score[v] for v in best] + [-np.inf] * (k - len(best)))
        ids.append(best + [0] * (k - len(best)))
        rivals = [score[v] for v in left if v != target]
        higher.append(sum(s > score[target] for s in rivals))
        ties.append(sum(s == score[target] for s in rivals))
    return np.array(scores), np.array(ids), np.array(higher), np.array(ties)


@CUTS
@pytest.mark.parametrize("form", ["xla", "reference"])
def test_equal_to_sorting_by_hand(form: str, blocks) -> None:
    case = whole_numbers(make_case(D=4))
    arrays = {"allowed": case.allowed, "group": case.group, "exclude": case.exclude}
    options = {"blocks": blocks, "implementation": form}
    scores, ids, higher, ties = by_hand(case, 12)
    found_scores, found_ids = best(case.x, case.w, 12, arrays, **options)
    np.testing.assert_array_equal(found_scores, scores)
    np.testing.assert_array_equal(found_ids, ids)
    found_higher, found_ties, own = rank(case.x, case.w, case.target, arrays, **options)
    assert ties.sum() > 50
    np.testing.assert_array_equal(found_higher, higher)
    np.testing.assert_array_equal(found_ties, ties)
    np.testing.assert_array_equal(own, (case.x * case.w[case.target]).sum(1))


@settings(max_examples=6, deadline=None)
@given(
    Q=st.integers(1, 20),
    V=st.sampled_from([2, 7, 127, 128, 1021, 1500]),
    queries=st.integers(1, 30),
    items=st.integers(1, 2000),
    k=st.integers(1, 6),
)
def test_any_length_of_the_catalogue_and_any_cut(Q: int, V: int, queries: int, items: int, k: int) -> None:
    case = whole_numbers(make_case(Q, V, 3, G=2, seed=V))
    k = min(k, V)
    scores, ids, higher, ties = by_hand(case, k)
    arrays = {"allowed": case.allowed, "group": case.group, "exclude": case.exclude}
    options = {"blocks": Blocks(queries, items)}
    found_scores, found_ids = best(case.x, case.w, k, arrays, **options)
    np.testing.assert_array_equal(found_scores, scores)
    np.testing.assert_array_equal(found_ids, ids)
    found_higher, found_ties, _ = rank(case.x, case.w, case.target, arrays, **options)
    np.testing.assert_array_equal(found_higher, higher)
    np.testing.assert_array_equal(found_ties, ties)


@pytest.mark.parametrize(("Q", "V"), [(1, 17), (1, 509), (3, 3720), (100, 509)])
@pytest.mark.parametrize("blocks", [None, Blocks(16, 300)])
def test_items_with_the_same_row_tie_wherever_they_stand(Q: int, V: int, blocks) -> None:
    rng = np.random.default_rng(0)
    w = jnp.asarray(np.repeat(rng.standard_normal((1, 50)), V, axis=0), jnp.float32)
    x = jnp.asarray(rng.standard_normal((Q, 50)), jnp.float32)
    higher, ties, _ = rank(x, w, jnp.full(Q, V // 2), blocks=blocks)
    assert np.all(higher == 0)
    assert np.all(ties == V - 1)
    np.testing.assert_array_equal(best(x, w, 5, blocks=blocks)[1], np.tile(np.arange(5), (Q, 1)))


@CUTS
def test_the_target_is_ranked_even_where_its_group_may_not_choose_it(blocks) -> None:
    case = whole_numbers(make_case(D=4))
    allowed = case.allowed.copy()
    allowed[:, case.target] = False
    arrays = {"allowed": allowed, "group": case.group, "exclude": case.exclude}
    found = rank(case.x, case.w, case.target, arrays, blocks=blocks)
    expected = rank(case.x, case.w, case.target, arrays, blocks=blocks, implementation="reference")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@CUTS
def test_with_fewer_items_than_k_the_rest_is_none(blocks) -> None:
    case = make_case(G=1)
    allowed = (np.arange(case.w.shape[0]) % 40 == 5)[None, :]
    scores, ids = best(case.x, case.w, 10, {"allowed": allowed}, blocks=blocks)
    assert sorted(np.asarray(ids[0]).tolist()) == [0] * 7 + [5, 45, 85]
    assert np.all(np.isneginf(scores[:, 3:]))
    assert np.all(np.isfinite(scores[:, :3]))


@CUTS
def test_a_score_that_is_not_a_number_is_never_a_good_rank(blocks) -> None:
    case = make_case()
    broken = case.x.copy()
    broken[4] = np.nan
    higher, _, score = rank(broken, case.w, case.target, blocks=blocks)
    assert higher[4] == case.w.shape[0]
    assert np.isnan(score[4])
    spoiled = case.w.copy()
    spoiled[50] = np.nan
    higher, _, _ = rank(case.x, spoiled, case.target, blocks=blocks)
    assert np.all(np.asarray(higher) >= (case.target != 50))


def test_leaving_out_nothing_changes_nothing_and_id_0_means_none() -> None:
    case = make_case()
    nothing = np.zeros((case.x.shape[0], 3), np.int32)
    left = best(case.x, case.w, 5, {"exclude": nothing})
    jax.tree.map(np.testing.assert_array_equal, left, best(case.x, case.w, 5))


def test_ranks_and_top_k_in_float64_and_bfloat16() -> None:
    case = whole_numbers(make_case(D=4))
    for x, y in zip(
        best(case.x.astype(jnp.bfloat16), case.w.astype(jnp.bfloat16), 12), best(case.x, case.w, 12), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    expected = rank(case.x, case.w, case.target)
    low = rank(case.x.astype(jnp.bfloat16), case.w.astype(jnp.bfloat16), case.target)
    np.testing.assert_array_equal(low[0], expected[0])
    with jax.enable_x64(True):
        high = rank(case.x.astype(np.float64), case.w, case.target)
        assert high[2].dtype == jnp.float64
        np.testing.assert_array_equal(high[0], expected[0])


def test_k_out_of_range_is_refused() -> None:
    case = make_case()
    for k in (0, 102):
        with pytest.raises(ValueError, match="between 1 and the 101 items"):
            top_k(case.x, case.w, k)
