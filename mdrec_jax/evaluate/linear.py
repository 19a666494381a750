"""Linear item-to-item models in closed form: ItemKNN, EASE, and a ridge regression from a history to its next item.

All three score item j after a history as the sum over its items i of w_i M[i, j], and differ in M alone. X is the
binary matrix of training sequences by items, G = X'X without its diagonal, c_i in how many sequences item i occurs.

    ItemKNN  M[i, j] = G[i, j] / (sqrt(c_i c_j) + shrinkage)
    EASE     M = I - P / diag(P), P = (X'X + l2 I)^-1; Steck 2019 (arXiv 1905.03375)
    ridge    M = (S'S + l2 I)^-1 S'T; the transitions of Choi et al. 2021 (SLIST, WWW 2021)

A row of S is a training sequence up to one of its events, an item k places before that event at exp(-k / decay); the
same row of T is the event that follows.

Matrices are dense, float32 and square in the items: `LARGEST` bounds them, and the inverse is made in place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

LARGEST = 16_000
"""Items of a matrix (1 GiB). Of a larger catalogue it holds those that training has most often."""
WINDOW = 30
"""Places between two items of a ridge's history that are still counted together."""
BLOCK = 512
"""Columns of a matrix that are worked on at once."""

type Square = Float32[np.ndarray, "U U"]


@dataclass(frozen=True)
class Sequences:
    """Training events, the items as numbers from 0, those of a sequence side by side in their order. U items."""

    item: Int64[np.ndarray, "N"]
    sequence: Int64[np.ndarray, "N"]
    items: int

    def unique(self) -> "Sequences":
        """Every sequence with each of its items once, by number."""
        key = np.unique(self.sequence * self.items + self.item)
        return Sequences(key % self.items, key // self.items, self.items)


def add_pairs(
    into: Square, events: Sequences, weight: Callable[[int, Int64[np.ndarray, "E"]], np.ndarray], most: int
) -> None:
    """Add weight(k, places of the later ones) to into[i, j] for all items j that stand k <= most places behind i."""
    flat = into.reshape(-1)
    for k in range(1, most + 1):
        later = np.flatnonzero(events.sequence[k:] == events.sequence[:-k]) + k
        if not len(later):
            return
        np.add.at(flat, events.item[later - k] * events.items + events.item[later], weight(k, later))


def together(events: Sequences) -> tuple[Square, Float32[np.ndarray, "U"]]:
    """G and c: in how many sequences two items occur, and each of them."""
    once = events.unique()
    counts = np.bincount(once.item, minlength=events.items).astype(np.float32)
    matrix = np.zeros((events.items, events.items), np.float32)
    add_pairs(matrix, once, lambda _, later: np.ones(len(later), np.float32), len(once.item))
    mirror(matrix)
    return matrix, counts


def mirror(matrix: Square) -> None:
    """Adds the transpose, in place."""
    for low in range(0, len(matrix), BLOCK):
        part = slice(low, low + BLOCK)
        both = matrix[part, low:] + matrix[low:, part].T
        matrix[part, low:], matrix[low:, part] = both, both.T


def item_knn(matrix: Square, counts: Float32[np.ndarray, "U"], shrinkage: float) -> Square:
    """M of ItemKNN, from G and c; G is kept."""
    root = np.sqrt(counts)
    out = np.outer(root, root)
    out += max(shrinkage, np.finfo(np.float32).tiny)
    return np.divide(matrix, out, out=out)


def ease(matrix: Square, counts: Float32[np.ndarray, "U"], l2: float) -> Square:
    """M of EASE, from G and c; G is kept."""
    inverse = matrix.copy()
    np.fill_diagonal(inverse, counts + np.float32(l2))
    invert(inverse)
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def next_ridge(events: Sequences, decay: float, l2: float) -> Square:
    """M of the ridge regression; `l2` above 0."""
    ends = np.flatnonzero(np.append(events.sequence[1:] != events.sequence[:-1], True))
    left = ends[np.searchsorted(ends, np.arange(len(events.item)))] - np.arange(len(events.item))
    # An item stands in as many rows as events follow it: sum over them of exp(-2 s / decay), s = 0, 1, ..
    share = np.exp(-2 / decay)
    rows = ((1 - share**left) / (1 - share)).astype(np.float32)
    matrix = np.zeros((events.items, events.items), np.float32)
    add_pairs(matrix, events, lambda k, later: np.float32(np.exp(-k / decay)) * rows[later], WINDOW)
    mirror(matrix)
    matrix[np.diag_indices(events.items)] += np.bincount(events.item, rows, events.items).astype(np.float32) + l2
    invert(matrix)
    follows = np.zeros_like(matrix)
    add_pairs(follows, events, lambda k, later: np.full(len(later), np.exp(-(k - 1) / decay), np.float32), WINDOW)
    for low in range(0, events.items, BLOCK):
        matrix[low : low + BLOCK] = matrix[low : low + BLOCK] @ follows
    return matrix


def invert(matrix: Square) -> None:
    """The inverse of a symmetric positive definite matrix, in place: the sweep operator by blocks (Goodnight 1979).

    Only blocks on and below the diagonal are read and worked out, U^3 operations; the rest is their mirror image.
    """
    size = len(matrix)
    for low in range(0, size, BLOCK):
        high = min(low + BLOCK, size)
        pivot = np.linalg.inv(matrix[low:high, low:high].astype(np.float64)).astype(np.float32)
        pivot = (pivot + pivot.T) / 2
        panel = np.concatenate([matrix[low:high, :low].T, matrix[low:, low:high]])
        swept = panel @ pivot
        for left in range(0, size, BLOCK):
            if left != low:
                right = min(left + BLOCK, size)
                matrix[left:, left:right] -= swept[left:] @ panel[left:right].T
        matrix[low:high, :low], matrix[high:, low:high] = swept[:low].T, swept[high:]
        matrix[low:high, low:high] = -pivot
    for low in range(0, size, BLOCK):
        high = min(low + BLOCK, size)
        matrix[low:, low:high] *= -1
        matrix[low:high, high:] = matrix[high:, low:high].T


def standardised(scores: Float32[np.ndarray, "B U"]) -> Float32[np.ndarray, "B U"]:
    """Every query's scores with mean 0 and deviation 1 over the items; all 0 where they are all equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def recency(back: Int64[np.ndarray, "E"], decay: float) -> Float64[np.ndarray, "E"]:
    """The weights of a history's items, `back` places before its end; a decay of 0 weighs all alike."""
    return np.exp(-back / decay) if decay else np.ones(len(back))
