"""The bootstrap over users and seeds: how far a figure might have come out otherwise with other users of the same kind
and other seeds of the training.

Users: Efron (1979), percentile form. A draw takes as many users as there are, with replacement, each with all of its
questions. Every figure of every row is a ratio of sums over users, so a draw is a vector of how often each user was
taken, and all figures of all draws are one matrix product. Users are taken in chunks: memory does not grow with them.

Seeds: S of them drawn with replacement have sqrt((S - 1) / S) of the spread that a mean of S has, and the spread of
three values is known badly: such an interval holds the truth in 8 of 10 cases instead of 19 of 20. So a draw moves the
mean over seeds by a normal variate of its full estimated spread, and users' and seeds' part together are divided by the
root of a chi-square over its degrees of freedom, as many as the estimate of the sum of both variances has
(Satterthwaite 1946): S - 1 where seeds are all of it, without end where users are. One seed tells nothing of others:
its interval is over users alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

DRAWS = 1000
CONFIDENCE = 0.95
SEED_DRAWS = 8
"""Draws of seeds for each draw of users: Student's tails need more of them."""
FREEDOM_SHARE, MOST_FREEDOM = 0.6, 1e6
"""Of Satterthwaite's degrees of freedom, but never fewer than the fewest seeds - 1. With three seeds that differ two to
ten times as much as users do, .94 to .95 of the intervals hold the truth (normal variates, 40,000 cases); with all of
his, .92 to .94."""
USER_CHUNK = 16384
DRAW_BLOCK = 128


def resampled_sums(
    user: Int[np.ndarray, "P"],
    values: Float64[np.ndarray, "P M"],
    groups: Sequence[Bool[np.ndarray, "P"]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, "B C M"], Float64[np.ndarray, "B C"]]:
    """For B draws of users: the sums of M values and the number of questions in each of C groups of questions.

    The draws are a function of (`seed`, number of users, `draws`) alone: two calls about the same users are paired.
    """
    order = np.argsort(user, kind="stable")
    ids, first = np.unique(user[order], return_index=True)
    ends = np.append(first[1:], len(user))
    generator = np.random.default_rng(np.random.SeedSequence([seed, len(ids), draws]))
    starts = np.arange(0, len(ids), USER_CHUNK)
    sizes = np.minimum(starts + USER_CHUNK, len(ids)) - starts
    # How many of a draw's users come from each chunk is multinomial, and which ones is uniform within the chunk:
    # together exactly len(ids) draws with replacement from all users.
    falls = generator.multinomial(len(ids), sizes / max(len(ids), 1), size=draws)
    total = np.zeros((draws, len(groups) * (values.shape[1] + 1)))
    for start, size, fall in zip(starts, sizes, falls.T, strict=True):
        rows = order[first[start] : ends[start + size - 1]]
        place = np.repeat(np.arange(size), (ends - first)[start : start + size])
        total += _drawn(generator, _user_sums(place, values[rows], [group[rows] for group in groups], size), fall)
    total = total.reshape(draws, len(groups), values.shape[1] + 1)
    return total[..., :-1], total[..., -1]


def _user_sums(
    place: Int64[np.ndarray, "P"],
    values: Float64[np.ndarray, "P M"],
    groups: Sequence[Bool[np.ndarray, "P"]],
    size: int,
) -> Float64[np.ndarray, "U K"]:
    """Each user's sums of the values, and its number of questions, in each group; K = C * (M + 1)."""
    sums = np.zeros((size, len(groups), values.shape[1] + 1))
    for index, group in enumerate(groups):
        chosen = np.flatnonzero(group)
        for column in range(values.shape[1]):
            sums[:, index, column] = np.bincount(place[chosen], values[chosen, column], size)
        sums[:, index, -1] = np.bincount(place[chosen], minlength=size)
    return sums.reshape(size, -1)


def _drawn(
    generator: np.random.Generator, sums: Float64[np.ndarray, "U K"], fall: Int64[np.ndarray, "B"]
) -> Float64[np.ndarray, "B K"]:
    """Each draw's total over the users it takes from this chunk; draw b takes fall[b] of them."""
    size, parts = len(sums), []
    for low in range(0, len(fall), DRAW_BLOCK):
        block = fall[low : low + DRAW_BLOCK]
        taken = generator.integers(0, size, size=int(block.sum()), dtype=np.int32)
        taken += np.repeat(np.arange(len(block), dtype=np.int32) * size, block)
        times = np.bincount(taken, minlength=len(block) * size).reshape(len(block), size)
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def add_seed_variation(
    parts: Sequence[Float64[np.ndarray, "B _ M"]], signs: Sequence[float], generator: np.random.Generator
) -> Float64[np.ndarray, "B K M"]:
    """Draws of a sum of models' means over their seeds, K draws of seeds for each of B draws of users.

    Args:
        parts: of each model, its figures in every draw of users, by seed ([B, S, M], S may differ).
        signs: what each model counts in the sum: (1,) for one model, (1, -1) for a difference.
        generator: of the draws of seeds.
    """
    total = sum(sign * part.mean(axis=1) for sign, part in zip(signs, parts, strict=True))
    assert isinstance(total, np.ndarray)
    total = total[:, None]
    several = [part for part in parts if part.shape[1] > 1]
    if not several:
        return total
    centre, variance, uncertain, moved = np.nanmean(total, axis=0), np.nanvar(total, axis=0), 0.0, total
    for part in several:
        by_seed, seeds = np.nanmean(part, axis=0), part.shape[1]
        normal = generator.standard_normal((len(part), SEED_DRAWS, seeds))
        normal -= normal.mean(axis=2, keepdims=True)
        moved = moved + normal @ by_seed / np.sqrt(seeds * (seeds - 1))
        own = by_seed.var(axis=0, ddof=1) / seeds
        variance, uncertain = variance + own, uncertain + own**2 / (seeds - 1)
    least = min(part.shape[1] for part in several) - 1
    freedom = FREEDOM_SHARE * variance**2 / np.maximum(uncertain, np.finfo(float).tiny)
    freedom = np.where(variance > 0, np.clip(freedom, least, MOST_FREEDOM), MOST_FREEDOM)
    return centre + (moved - centre) / np.sqrt(generator.chisquare(freedom, moved.shape) / freedom)


def ratio(sums: Float64[np.ndarray, "*B M"], counts: Float64[np.ndarray, "*B"]) -> Float64[np.ndarray, "*B M"]:
    """Means where there is something to average, NaN elsewhere."""
    return sums / np.where(counts > 0, counts, np.nan)[..., None]


def percentile_interval(
    values: Float64[np.ndarray, "B *K"], confidence: float = CONFIDENCE
) -> Float64[np.ndarray, "2 *K"]:
    """The interval that holds the middle `confidence` of the draws; draws without any user of a group do not count."""
    tail = 100 * (1 - confidence) / 2
    percentile = np.nanpercentile if np.isnan(values).any() else np.percentile
    return percentile(values, [tail, 100 - tail], axis=0)
