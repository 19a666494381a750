"""The closed forms equal their equations written out with whole matrices, whatever the blocks."""

import numpy as np
import pytest

from mdrec_jax.evaluate.baselines import item_item
from mdrec_jax.evaluate.baselines.item_item import (
    Sequences,
    ease,
    invert,
    item_knn,
    recency,
    ridge_follows,
    ridge_inverse,
    standardised,
    sweep,
    together,
)

ITEMS = 9


@pytest.fixture(scope="module", params=[0, 4, ITEMS], ids=["all items shared", "four items alone", "nothing shared"])
def rows(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """The last so many items occur in one sequence each, two or more of them in the same, and repeatedly."""
    generator, alone = np.random.default_rng(0), range(ITEMS - request.param, ITEMS)
    shared = [
        generator.integers(0, ITEMS - len(alone), generator.integers(2, 9)) for _ in range(30 * (len(alone) < ITEMS))
    ]
    own = [[item, *row[:3], item + 1, item] for item, row in zip(alone[::2], [*shared, *[[]] * 9], strict=False)]
    return [*(np.array(row)[np.array(row) < ITEMS] for row in own), *shared]


@pytest.fixture(scope="module")
def events(rows: list[np.ndarray]) -> Sequences:
    return Sequences(np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows]), ITEMS)


@pytest.fixture(params=[2, 3, 512])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_item, "BLOCK", request.param)


def binary(events: Sequences) -> np.ndarray:
    matrix = np.zeros((events.sequence.max() + 1, ITEMS))
    matrix[events.sequence, events.item] = 1
    return matrix


def test_an_item_is_alone_where_one_sequence_has_all_of_it() -> None:
    events = Sequences(np.array([0, 1, 0, 2, 3, 2, 0, 4]), np.array([0, 0, 0, 3, 3, 3, 5, 5]), 6)
    np.testing.assert_array_equal(events.alone(), [-1, 0, 3, 3, 5, -1])


@pytest.mark.usefixtures("block")
def test_items_are_counted_together_once_a_sequence(events: Sequences) -> None:
    gram = binary(events).T @ binary(events)
    matrix, counts = together(events)
    np.testing.assert_array_equal(matrix + np.diag(counts), gram)
    np.testing.assert_array_equal(counts, np.diag(gram))
    cosine = (gram - np.diag(np.diag(gram))) / (np.sqrt(np.outer(np.diag(gram), np.diag(gram))) + 3)
    np.testing.assert_allclose(item_knn(matrix, counts, 3), cosine, rtol=1e-6)


@pytest.mark.usefixtures("block")
def test_ease_solves_its_regression_under_a_diagonal_of_zeros(events: Sequences) -> None:
    """Each column is the ridge regression of an item on all others: Steck's constraint, without his multipliers."""
    x, l2, found = binary(events), 5.0, ease(*together(events), events.alone(), 5.0)
    assert not np.diag(found).any()
    for item in range(ITEMS):
        others = np.delete(np.arange(ITEMS), item)
        rest = x[:, others]
        expected = np.linalg.solve(rest.T @ rest + l2 * np.eye(ITEMS - 1), rest.T @ x[:, item])
        np.testing.assert_allclose(found[others, item], expected, atol=1e-5)


@pytest.mark.usefixtures("block")
def test_the_ridge_regresses_the_next_item_on_the_decayed_history(events: Sequences, rows: list[np.ndarray]) -> None:
    past, following = [], []
    for row in rows:
        for end in range(1, len(row)):
            history = np.zeros(ITEMS)
            np.add.at(history, row[:end], recency(end - 1 - np.arange(end), 2.0))
            past.append(history)
            following.append(np.eye(ITEMS)[row[end]])
    s, t = np.array(past), np.array(following)
    found = ridge_inverse(events, 2.0, 3.0) @ ridge_follows(events, 2.0)
    np.testing.assert_allclose(found, np.linalg.solve(s.T @ s + 3 * np.eye(ITEMS), s.T @ t), atol=1e-5)


@pytest.mark.parametrize("size", [1, 512, 1100])
def test_an_inverse_is_made_in_place(size: int) -> None:
    x = np.random.default_rng(1).normal(size=(size + 20, size)) / np.sqrt(size)
    matrix = x.T @ x + np.eye(size)
    found = matrix.astype(np.float32)
    sweep(found)
    np.testing.assert_allclose(found, np.linalg.inv(matrix), atol=2e-5)


def test_items_of_one_sequence_alone_are_eliminated_first(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    alone = np.where(np.arange(300) % 3 > 0, np.arange(300) % 40, -1)
    x = generator.normal(size=(400, 300)) * ((alone < 0) | (np.arange(400)[:, None] % 40 == alone))
    matrix, sizes = x.T @ x / 40 + np.eye(300), []
    monkeypatch.setattr(item_item, "sweep", lambda rest: sizes.append(len(rest)) or sweep(rest))
    found = matrix.astype(np.float32)
    invert(found, alone)
    np.testing.assert_allclose(found, np.linalg.inv(matrix), atol=2e-5)
    assert sizes == [100]


def test_scores_are_standardised_a_query() -> None:
    scores = np.array([[1, 2, 3, 6], [4, 4, 4, 4]], np.float32)
    found = standardised(scores)
    np.testing.assert_allclose([found[0].mean(), found[0].std()], [0, 1], atol=1e-6)
    assert not found[1].any()
