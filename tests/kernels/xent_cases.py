"""Inputs for the tests of `linear_xent`, what the formula makes of them, and how far two results lie apart."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Case:
    """Tokens, items, and a target that each token's group may choose. About a third of the tokens have no weight."""

    x: np.ndarray
    w: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    allowed: np.ndarray
    group: np.ndarray
    exclude: np.ndarray


def make_case(N: int = 70, V: int = 101, D: int = 16, G: int = 3, dtype=np.float32, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    allowed = rng.random((G, V)) < 0.6
    allowed[:, V // 2] = True
    group = rng.integers(0, G, N).astype(np.int32)
    target = np.array([rng.choice(np.flatnonzero(allowed[g])) for g in group], np.int32)
    weight = rng.random(N) * (rng.random(N) < 0.7)
    exclude = rng.integers(0, V, (N, 7)).astype(np.int32)
    exclude[:, 0] = target
    return Case(
        x=rng.standard_normal((N, D)).astype(dtype),
        w=rng.standard_normal((V, D)).astype(dtype),
        target=target,
        weight=weight.astype(np.promote_types(np.float32, dtype)),
        allowed=allowed,
        group=group,
        exclude=exclude,
    )


def at_another_place(case: Case, token: int, place: int, seed: int) -> Case:
    """One token of the case at another place, beside others with long states of any direction."""
    others = make_case(N=len(case.x), seed=seed)
    others = replace(others, x=100 * others.x, target=np.full_like(case.target, case.w.shape[0] // 2))
    moved = {name: getattr(others, name).copy() for name in ("x", "target", "weight", "group")}
    for name, values in moved.items():
        values[place] = getattr(case, name)[token]
    return replace(case, **moved)


def by_formula(case: Case, masked: bool = True, z_loss: float = 0.0):
    """The weighted sum of cross entropies, and its gradient by states, items and weights: by hand, in float64."""
    x, w, weight = wide(case.x), wide(case.w), wide(case.weight)
    scores = x @ w.T
    if masked:
        scores = np.where(case.allowed[case.group], scores, -np.inf)
    largest = scores.max(1)
    normaliser = largest + np.log(np.exp(scores - largest[:, None]).sum(1))
    tokens = np.arange(len(x))
    losses = normaliser - scores[tokens, case.target] + z_loss * normaliser**2
    down = weight[:, None] * np.exp(scores - normaliser[:, None]) * (1 + 2 * z_loss * normaliser[:, None])
    down[tokens, case.target] -= weight
    real = weight != 0
    return (weight[real] * losses[real]).sum(), (down @ w, down.T @ x, np.where(real, losses, 0))


def distance(found, expected) -> float:
    """The largest difference of two leaves, in units of the expected one's largest entry; NaN if there is one."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([np.max(np.abs(wide(a) - wide(b))) / (np.max(np.abs(wide(b))) + 1e-30) for a, b in pairs]))


def wide(value) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.float32 if value.dtype == jnp.bfloat16 else np.float64).astype(np.float64)
