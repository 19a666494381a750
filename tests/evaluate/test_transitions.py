"""Transition counts and sparse ranks equal the definitions written out with whole matrices."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.evaluate.baselines.transitions import (
    NOTHING_REACHED,
    base_scores,
    count_transitions,
    rank_all,
    rank_among,
    reach,
)

ITEMS = 12
SEQUENCES = st.lists(st.lists(st.integers(1, ITEMS - 1), min_size=1, max_size=12), min_size=1, max_size=6)


def csr(values: list[list[int]]) -> Csr:
    return Csr(
        from_lengths(np.array([len(one) for one in values])), np.array([x for one in values for x in one], np.int32)
    )


def transitions_of(sequences: list[list[int]]):
    flat = csr(sequences)
    return count_transitions(flat.values, flat.owner, ITEMS)


def whole_matrix(sequences: list[list[int]]) -> np.ndarray:
    matrix = np.zeros((ITEMS, ITEMS))
    for events in sequences:
        for place, item in enumerate(events):
            for step in range(1, 6):
                if place + step < len(events) and item > 1 and events[place + step] > 1:
                    matrix[item, events[place + step]] += 1 / step
    return matrix


def whole_scores(matrix: np.ndarray, history: list[int], base: np.ndarray) -> np.ndarray:
    scores = np.zeros(ITEMS)
    for back, item in enumerate(history[::-1][:5]):
        scores += matrix[item] / (matrix[item].sum() + 5) / (back + 1)
    return scores + base


@given(SEQUENCES)
def test_counts_are_the_sums_of_one_over_the_distance(sequences: list[list[int]]) -> None:
    counts, matrix = transitions_of(sequences), np.zeros((ITEMS, ITEMS))
    for row in range(ITEMS):
        part = slice(counts.offsets[row], counts.offsets[row + 1])
        matrix[row, counts.item[part]] = counts.value[part]
    np.testing.assert_allclose(matrix, whole_matrix(sequences), rtol=1e-12)
    np.testing.assert_allclose(counts.total, matrix.sum(axis=1), rtol=1e-12)


def test_equal_counts_tie_in_whatever_order_they_were_added() -> None:
    counts = transitions_of([[2, 3, 4, 9, 3], [2, 8, 3, 7], [2, 4, 9, 6, 4]])
    row = dict(zip(counts.item[counts.offsets[2] : counts.offsets[3]].tolist(), counts.value, strict=False))
    assert row[3] == 1 + 1 / 2 + 1 / 4


@settings(max_examples=200, deadline=None)
@given(data=st.data(), sequences=SEQUENCES)
def test_sparse_ranks_equal_ranks_over_whole_rows(data, sequences: list[list[int]]) -> None:
    counts, matrix = transitions_of(sequences), whole_matrix(sequences)
    universe = np.array(sorted(data.draw(st.sets(st.integers(2, ITEMS - 1), min_size=2))), np.int32)
    queries = data.draw(st.integers(1, 4))
    histories = [data.draw(st.lists(st.integers(1, ITEMS - 1), max_size=7)) for _ in range(queries)]
    seen = [data.draw(st.lists(st.integers(2, ITEMS - 1), max_size=5)) for _ in range(queries)]
    target = np.array([data.draw(st.sampled_from(universe.tolist())) for _ in range(queries)], np.int32)
    base = np.array(data.draw(st.lists(st.integers(0, 3), min_size=ITEMS, max_size=ITEMS))) * 1e-6
    reached = reach(counts, csr(histories).last(5))
    higher, ties = rank_all(reached, base_scores(base, universe), target, csr(seen))
    for number in range(queries):
        scores = whole_scores(matrix, histories[number], base)
        rivals = [i for i in universe.tolist() if i != target[number] and i not in seen[number]]
        margin = scores[rivals] - scores[target[number]]
        # Sums in another order may differ in the last bit; what is that close may count either way.
        close = np.abs(margin) < 1e-15
        assert (margin[~close] > 0).sum() <= higher[number] <= (margin > -1e-15).sum()
        assert higher[number] + ties[number] >= (margin > 1e-15).sum()
        assert higher[number] + ties[number] <= (margin >= -1e-15).sum()


@given(data=st.data(), base=st.lists(st.integers(0, 4), min_size=ITEMS, max_size=ITEMS))
def test_popularity_counts_higher_and_tied_items(data, base: list[int]) -> None:
    scores = np.array(base, float)
    universe = np.arange(2, ITEMS, dtype=np.int32)
    target = np.array([data.draw(st.integers(2, ITEMS - 1))], np.int32)
    seen = data.draw(st.lists(st.integers(2, ITEMS - 1), max_size=6))
    higher, ties = rank_all(NOTHING_REACHED, base_scores(scores, universe), target, csr([seen]))
    rivals = [i for i in universe.tolist() if i != target[0] and i not in seen]
    assert higher[0] == (scores[rivals] > scores[target[0]]).sum()
    assert ties[0] == (scores[rivals] == scores[target[0]]).sum()


def test_candidates_compete_alone_and_each_as_often_as_it_is_listed() -> None:
    base = base_scores(np.arange(ITEMS, dtype=float), np.arange(2, ITEMS, dtype=np.int32))
    candidates = np.array([[9, 9, 5, 3, 0, 0], [5, 5, 4, 2, 11, 11]], np.int32)
    higher, ties = rank_among(NOTHING_REACHED, base, np.array([5, 5], np.int32), candidates)
    np.testing.assert_array_equal(higher, [2, 2])
    np.testing.assert_array_equal(ties, [0, 0])
