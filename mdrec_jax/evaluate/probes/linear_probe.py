"""What can be read out of a code: classifiers and ridge regressions, each judged on users that it never saw.

Users are dealt into three parts: half of them teach, a fifth choose (when a classifier stops, how hard a regression
shrinks), the others judge. Codes are standardised a channel at a time, so that a direction of small variance is read
as easily as a large one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float64, Int

from mdrec_jax.evaluate import bootstrap

TEACH, CHOOSE = 0.5, 0.2
"""Shares of the users."""
STEPS, VALIDATE_EVERY, BLOCK = 2000, 100, 256
"""Of a classifier's training: steps, steps between two validations, rows a step."""
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
RIDGE = tuple(10.0**power for power in range(-2, 5))
"""Penalties that a ridge regression chooses from, over the number of rows that teach."""


class Figure(NamedTuple):
    """A value and its 95 % interval over users."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Parts:
    """Which rows teach, choose and judge: all rows of a user have one part."""

    teach: Bool[np.ndarray, " N"]
    choose: Bool[np.ndarray, " N"]
    judge: Bool[np.ndarray, " N"]


def split_users(user: Int[np.ndarray, " N"], seed: int) -> Parts:
    """A function of the users that there are and of the seed."""
    known, number = np.unique(user, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(known))[number.reshape(-1)]
    first, second = round(TEACH * len(known)), round((TEACH + CHOOSE) * len(known))
    return Parts(place < first, (place >= first) & (place < second), place >= second)


def balanced_accuracy(
    x: Float[np.ndarray, "N D"],
    label: Int[np.ndarray, " N"],
    user: Int[np.ndarray, " N"],
    *,
    hidden: int = 0,
    seed: int = 0,
) -> Figure:
    """The mean over labels of how often a classifier of `x` finds the label, among users that it never saw.

    Args:
        label: 0 .. G-1.
        hidden: width of its hidden layer; 0 = logistic regression.
        seed: of the split, the initial values and the order of rows.
    """
    parts = split_users(user, seed)
    _, label = np.unique(label, return_inverse=True)
    guess = _classifier(_standardised(x, parts), label, parts, hidden, seed)
    judged, mine = label[parts.judge], guess(parts.judge)
    groups = [judged == one for one in np.unique(judged)]
    right = (mine == judged)[:, None].astype(np.float64)
    value = np.mean([right[group].mean() for group in groups])
    sums, counts = bootstrap.resampled_sums(user[parts.judge], right, groups)
    return _figure(float(value), np.nanmean(bootstrap.ratio(sums, counts)[..., 0], axis=1))


def explained(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N K"],
    user: Int[np.ndarray, " N"],
    group: Int[np.ndarray, " N"],
    *,
    seed: int = 0,
) -> Figure:
    """R2 of ridge regression, one for each group of rows: the share of the variance of y (around the mean of the rows
    that teach) that it foretells, over all K columns, all groups and users that it never saw."""
    parts = split_users(user, seed)
    x = _standardised(x, parts)
    wrong, spread = np.zeros(len(x)), np.zeros(len(x))
    for one in np.unique(group):
        rows = group == one
        guess, mean = _ridge(x, y, rows & parts.teach, rows & parts.choose)
        wrong[rows] = np.square(y[rows] - guess(x[rows])).sum(1)
        spread[rows] = np.square(y[rows] - mean).sum(1)
    judged = np.stack([wrong, spread], axis=1)[parts.judge]
    sums, _ = bootstrap.resampled_sums(user[parts.judge], judged, [np.ones(len(judged), bool)])
    total = judged.sum(0)
    return _figure(float(1 - total[0] / total[1]), 1 - sums[:, 0, 0] / sums[:, 0, 1])


def share_of(value: Float64[np.ndarray, " P"], whole: Float64[np.ndarray, " P"], user: Int[np.ndarray, " P"]) -> Figure:
    """The sum of one value of P questions over the sum of another, users drawn for both alike."""
    sums, _ = bootstrap.resampled_sums(user, np.stack([value, whole], axis=1), [np.ones(len(user), bool)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return _figure(float(value.sum() / whole.sum()), sums[:, 0, 0] / sums[:, 0, 1])


def _figure(value: float, draws: Float64[np.ndarray, " B"]) -> Figure:
    low, high = bootstrap.percentile_interval(draws)
    return Figure(value, float(low), float(high))


def _standardised(x: Float[np.ndarray, "N D"], parts: Parts) -> Float64[np.ndarray, "N D"]:
    """x with mean 0 and standard deviation 1 in each channel, by the rows that teach; a constant channel becomes 0."""
    x = x.astype(np.float64)
    taught = x[parts.teach]
    mean, spread = taught.mean(0), taught.std(0)
    return (x - mean) / np.where(spread > 1e-6 * (1 + np.abs(mean)), spread, np.inf)


def _ridge(
    x: Float64[np.ndarray, "N D"],
    y: Float[np.ndarray, "N K"],
    teach: Bool[np.ndarray, " N"],
    choose: Bool[np.ndarray, " N"],
) -> tuple[Any, Float64[np.ndarray, " K"]]:
    """The regression whose penalty serves the rows that choose best, and the mean of y."""
    centre, mean = x[teach].mean(0), y[teach].mean(0)
    a, b = x[teach] - centre, y[teach] - mean
    gram, moment = a.T @ a, a.T @ b
    weights = [np.linalg.solve(gram + penalty * len(a) * np.eye(len(gram)), moment) for penalty in (1e-6, *RIDGE)]
    errors = [np.square(y[choose] - mean - (x[choose] - centre) @ w).sum() for w in weights]
    best = weights[int(np.argmin(errors))]
    return lambda rows: mean + (rows - centre) @ best, mean


def _classifier(
    x: Float64[np.ndarray, "N D"], label: Int[np.ndarray, " N"], parts: Parts, hidden: int, seed: int
) -> Any:
    """Trained by AdamW; as it was when it served the rows that choose best. All labels weigh the same."""
    labels = int(label.max()) + 1
    count = np.bincount(label[parts.teach], minlength=labels)
    columns = (x.astype(np.float32), label, (1.0 / np.maximum(count, 1))[label].astype(np.float32))
    taught, chosen_by = (tuple(jnp.asarray(v[rows]) for v in columns) for rows in (parts.teach, parts.choose))
    params = _initial(jax.random.key(seed), (x.shape[1], *((hidden,) if hidden else ()), labels))
    moments = _optimiser().init(params)
    best, lowest = params, np.inf
    for order in _orders(len(taught[0]), seed):
        params, moments = _steps(params, moments, taught, order)
        loss = float(_loss(params, *chosen_by))
        if loss < lowest:
            best, lowest = params, loss
    return lambda chosen: np.asarray(_logits(best, jnp.asarray(x[chosen], jnp.float32))).argmax(1)


def _orders(rows: int, seed: int) -> Iterator[Int[np.ndarray, "B R"]]:
    """The rows of the steps between two validations."""
    generator = np.random.default_rng(seed)
    for _ in range(STEPS // VALIDATE_EVERY):
        yield generator.integers(0, rows, (VALIDATE_EVERY, min(BLOCK, rows)))


@lru_cache
def _optimiser() -> optax.GradientTransformation:
    return optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def _initial(key: jax.Array, widths: Sequence[int]) -> list[tuple[Array, Array]]:
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (inputs**-0.5 * jax.random.normal(key, (inputs, outputs)), jnp.zeros((outputs,)))
        for key, inputs, outputs in zip(keys, widths, widths[1:], strict=False)
    ]


@jax.jit
def _logits(params: list[tuple[Array, Array]], x: Float[Array, "N D"]) -> Float[Array, "N G"]:
    for number, (weight, bias) in enumerate(params):
        x = (jax.nn.gelu(x) if number else x) @ weight + bias[None, :]
    return x


@jax.jit
def _loss(params: Any, x: Float[Array, "N D"], label: Int[Array, " N"], weight: Float[Array, " N"]) -> Array:
    wrong = optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), label)
    return (wrong * weight).sum() / weight.sum()


@partial(jax.jit, donate_argnums=(1,))
def _steps(params: Any, moments: Any, data: Any, order: Int[Array, "B R"]) -> Any:
    def step(carry: Any, rows: Array) -> Any:
        params, moments = carry
        gradient = jax.grad(_loss)(params, *(v[rows] for v in data))
        changes, moments = _optimiser().update(gradient, moments, params)
        return (optax.apply_updates(params, changes), moments), None

    return jax.lax.scan(step, (params, moments), order)[0]
