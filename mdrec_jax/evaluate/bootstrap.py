"""The bootstrap over users: how far a figure might have come out otherwise with other users of the same kind.

Efron (1979), percentile form. A draw takes as many users as there are, with replacement, each with all of its
questions. Every figure of every row is a ratio of sums over users, so a draw is a vector of how often each user was
taken, and all figures of all draws are one matrix product. Users are taken in chunks: memory does not grow with them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

DRAWS = 1000
CONFIDENCE = 0.95
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
