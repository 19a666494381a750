"""A model beside the best baseline: where, by how much, and what the sentence says."""

import numpy as np
import pytest

from mdrec_jax.evaluate.compare import verdict
from mdrec_jax.evaluate.ranks import Ranks


def ranks_of(hits: int, other: int | None = None, users: int = 400) -> Ranks:
    """Of ten users of the first domain `hits` get their item, of ten of the second `other` (as many, if it is None)."""
    number = np.arange(users)
    most = np.where(number % 2 == 0, hits, hits if other is None else other)
    return Ranks(
        query=number,
        question=number,
        user=number.astype(np.int32),
        domain=(number % 2).astype(np.int32),
        rank=np.where(number // 2 % 10 < most, 1.0, 50.0)[:, None].astype(np.float32),
        history_length=np.full(users, 4, np.int32),
        days=np.full(users, -1, np.int32),
        cold=np.zeros(users, bool),
    )


@pytest.mark.parametrize(
    ("hits", "above", "text"),
    [
        ((6,), True, "is above the best baseline on validation (transitions)"),
        ((4,), False, "is not above"),
        ((6, 6, 7), True, "over users and seeds"),
        ((2, 5, 8), False, "by +0.1000"),
    ],
)
def test_the_verdict_is_about_the_best_baseline_and_its_interval(hits: tuple[int, ...], above: bool, text: str) -> None:
    models = {"popularity": [ranks_of(2)], "transitions": [ranks_of(4)], "sasrec": [ranks_of(one) for one in hits]}
    found = verdict(models, "sasrec", "macro/hr@10", "validation", ("a", "b"))
    assert found is not None
    assert (found.above, found.baseline) == (above, "transitions")
    assert text in found.sentence()
    assert verdict({"sasrec": models["sasrec"]}, "sasrec", "hr@10", "validation", ("a", "b")) is None


@pytest.mark.parametrize(
    ("metric", "baseline", "first", "second"),
    [
        ("a/hr@10", "popularity", 0.9, 0.8),
        ("b/hr@10", "transitions", 0.1, 0.6),
        ("hr@10", "transitions", 0.5, 0.45),
        ("macro/hr@10", "transitions", 0.5, 0.45),
    ],
)
def test_a_verdict_is_about_the_domain_that_the_metric_names(
    metric: str, baseline: str, first: float, second: float
) -> None:
    models = {
        "sasrec": [ranks_of(9, 1), ranks_of(9, 1)],
        "transitions": [ranks_of(3, 6)],
        "popularity": [ranks_of(8, 0)],
        "hstu": [ranks_of(10, 10)],  # a model is no baseline, however good it is
    }
    found = verdict(models, "sasrec", metric, "test", ("a", "b"))
    assert found is not None
    assert (found.baseline, found.seeds, found.metric, found.split) == (baseline, 2, metric, "test")
    assert (found.gap.first, found.gap.second) == pytest.approx((first, second))
    assert not found.gap.one_seed, "counting has no seeds"


def test_the_sentence_of_one_seed_says_that_it_is_one() -> None:
    models = {"transitions": [ranks_of(4)], "sasrec": [ranks_of(6)]}
    for seeds, text in ((1, "over users +"), (3, "over users and seeds +")):
        found = verdict(models | {"sasrec": models["sasrec"] * seeds}, "sasrec", "hr@10", "test", ("a", "b"))
        assert found is not None
        assert text in found.sentence()
        assert ("one seed" in found.sentence()) is (seeds == 1)
        assert "hr@10 0.6000 against 0.4000, by +0.2000" in found.sentence()


def test_no_difference_is_not_above() -> None:
    found = verdict({"transitions": [ranks_of(4)], "sasrec": [ranks_of(4)]}, "sasrec", "hr@10", "test", ("a", "b"))
    assert found is not None
    assert found.gap.interval == (0, 0)
    assert not found.above
