"""Intervals over users and seeds hold the truth about as often as they say; one seed makes no claim."""

from collections.abc import Sequence

import numpy as np
import pytest

from mdrec_jax.evaluate.bootstrap import add_seed_variation
from mdrec_jax.evaluate.compare import compare
from mdrec_jax.evaluate.make_results import model_rows
from mdrec_jax.evaluate.ranks import Ranks

USERS, WORLDS, TRUTH = 500, 150, 0.3


def worlds(seeds: int, spread: float, number: int) -> list[list[Ranks]]:
    """Trainings whose hit rates are spread around one truth (in shares of it), over the same users."""
    generator = np.random.default_rng(number)
    made = []
    for _ in range(WORLDS):
        hard = generator.random(USERS)  # the same for all seeds, so that users' part is shared
        hits = TRUTH * (1 + spread * generator.standard_normal(seeds))
        mixed = generator.random((seeds, USERS)) < 0.8
        draw = np.where(mixed, hard, generator.random((seeds, USERS)))
        made.append([ranks_of(where < hit) for where, hit in zip(draw, hits, strict=True)])
    return made


def ranks_of(hit: np.ndarray) -> Ranks:
    number = np.arange(len(hit))
    return Ranks(
        query=number,
        question=number,
        user=number.astype(np.int32),
        domain=np.zeros(len(hit), np.int32),
        rank=np.where(hit, 1.0, 50.0)[:, None].astype(np.float32),
        history_length=np.full(len(hit), 4, np.int32),
        days=np.full(len(hit), -1, np.int32),
        cold=np.zeros(len(hit), bool),
    )


def covered(parts: Sequence[Ranks]) -> bool:
    low, high = model_rows("m", parts, ("one",), metrics=("hr@10",), draws=120)[0][0].interval["hr@10"]
    return low <= TRUTH <= high


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.05), (3, 0.1), (4, 0.1)])
def test_a_row_of_several_seeds_covers_the_truth(seeds: int, spread: float) -> None:
    assert sum(map(covered, worlds(seeds, spread, seeds))) >= 0.93 * WORLDS


@pytest.mark.parametrize("paired", [False, True])
def test_a_difference_of_three_seeds_each_covers_zero(paired: bool) -> None:
    claims = sum(
        compare(a, b, ["hr@10"], draws=120, paired_seeds=paired)[0].significant
        for a, b in zip(worlds(3, 0.08, 1), worlds(3, 0.08, 2), strict=True)
    )
    assert claims <= 0.07 * WORLDS


def test_a_real_gain_is_still_found() -> None:
    better = [ranks_of(np.arange(USERS) % 10 < hits) for hits in (6, 6, 6)]
    worse = [ranks_of(np.arange(USERS) % 10 < 3) for _ in range(3)]
    assert compare(better, worse, ["hr@10"])[0].significant


def test_one_seed_makes_no_claim_and_a_count_needs_none() -> None:
    better, counts = [ranks_of(np.arange(USERS) % 10 < 6)], [ranks_of(np.arange(USERS) % 10 < 3)]
    (one,) = compare(better, counts * 3, ["hr@10"])
    assert one.one_seed
    assert one.interval[0] > 0
    assert not one.significant
    (more,) = compare(better * 3, counts, ["hr@10"], deterministic=(False, True))
    assert more.significant
    assert not compare(better * 3, counts, ["hr@10"])[0].significant


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.303), (6, 2.571)])
def test_where_users_tell_nothing_a_mean_over_seeds_is_students(seeds: int, quantile: float) -> None:
    values = np.arange(seeds, dtype=float) ** 2
    part = np.broadcast_to(values[None, :, None], (5000, seeds, 1))
    drawn = add_seed_variation((part,), (1,), np.random.default_rng(0))[..., 0]
    t = (drawn - values.mean()) / (values.std(ddof=1) / np.sqrt(seeds))
    np.testing.assert_allclose(np.quantile(t, [0.025, 0.975]), [-quantile, quantile], rtol=0.05)


def test_where_seeds_are_equal_only_users_are_drawn() -> None:
    users = np.random.default_rng(0).standard_normal((300, 1, 2))
    both = add_seed_variation((np.repeat(users, 3, axis=1),), (1,), np.random.default_rng(1))
    np.testing.assert_allclose(np.quantile(both, [0.1, 0.9]), np.quantile(users, [0.1, 0.9]), rtol=0.02)
