"""Linear item-to-item models in closed form: ItemKNN, EASE, and a ridge regression from a history to its next item.

All three score item j after a history as the sum over its items i of w_i M[i, j], and differ in M alone. X is the
binary matrix of training sequences by items, G = X'X without its diagonal, c_i in how many sequences item i occurs.

    ItemKNN  M[i, j] = G[i, j] / (sqrt(c_i c_j) + shrinkage)
    EASE     M = I - P / diag(P), P = (X'X + l2 I)^-1; Steck 2019 (arXiv 1905.03375)
    ridge    M = (S'S + l2 I)^-1 S'T; the transitions of Choi et al. 2021 (SLIST, WWW 2021)

A row of S is a training sequence up to one of its events, an item k places before that event at exp(-k / decay); the
same row of T is the event that follows.

Matrices are dense, float32 and square in the items: `LARGEST` bounds them, and the inverse is made in place. Items of
one sequence alone (four in ten of a catalogue with a long tail) meet that sequence's items only, so they are eliminated
beforehand, sequence by sequence. The ridge's M is not formed: a history goes through the inverse, then through S'T.
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

    def alone(self) -> Int64[np.ndarray, "U"]:
        """The sequence of every item that occurs in no other one; -1 for the others."""
        first = np.full(self.items, -1, np.int64)
        first[self.item[::-1]] = self.sequence[::-1]
        first[self.item[self.sequence != first[self.item]]] = -1
        return first


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


def ease(matrix: Square, counts: Float32[np.ndarray, "U"], alone: Int64[np.ndarray, "U"], l2: float) -> Square:
    """M of EASE, from G, c and what `Sequences.alone` says; G is kept."""
    inverse = matrix.copy()
    np.fill_diagonal(inverse, counts + np.float32(l2))
    invert(inverse, alone)
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def ridge_inverse(events: Sequences, decay: float, l2: float) -> Square:
    """(S'S + l2 I)^-1 of the ridge regression; `l2` above 0."""
    ends = np.flatnonzero(np.append(events.sequence[1:] != events.sequence[:-1], True))
    left = ends[np.searchsorted(ends, np.arange(len(events.item)))] - np.arange(len(events.item))
    # An item stands in as many rows as events follow it: sum over them of exp(-2 s / decay), s = 0, 1, ..
    share = np.exp(-2 / decay)
    rows = ((1 - share**left) / (1 - share)).astype(np.float32)
    matrix = np.zeros((events.items, events.items), np.float32)
    add_pairs(matrix, events, lambda k, later: np.float32(np.exp(-k / decay)) * rows[later], WINDOW)
    mirror(matrix)
    matrix[np.diag_indices(events.items)] += np.bincount(events.item, rows, events.items).astype(np.float32) + l2
    invert(matrix, events.alone())
    return matrix


def ridge_follows(events: Sequences, decay: float) -> Square:
    """S'T of the ridge regression."""
    matrix = np.zeros((events.items, events.items), np.float32)
    add_pairs(matrix, events, lambda k, later: np.full(len(later), np.exp(-(k - 1) / decay), np.float32), WINDOW)
    return matrix


def invert(matrix: Square, alone: Int64[np.ndarray, "U"]) -> None:
    """The inverse of a symmetric positive definite matrix, in place, by block elimination.

    Args:
        alone: items with the same number here, 0 or more, meet each other and those of -1 only: entries between other
            pairs are 0. They leave by blocks, and the rest is left to `sweep`.
    """
    inner, outer = np.flatnonzero(alone >= 0), np.flatnonzero(alone < 0)
    if not len(inner):
        return sweep(matrix)
    inner = inner[np.argsort(alone[inner], kind="stable")]
    rest = matrix[np.ix_(outer, outer)]
    blocks = []
    for own in np.split(inner, np.flatnonzero(np.diff(alone[inner])) + 1):
        inverse = np.linalg.inv(matrix[np.ix_(own, own)].astype(np.float64)).astype(np.float32)
        near = np.flatnonzero(matrix[np.ix_(own, outer)].any(axis=0))
        cross = matrix[np.ix_(own, outer[near])]
        solved = inverse @ cross
        rest[np.ix_(near, near)] -= cross.T @ solved
        blocks.append((own, near, inverse, solved))
    sweep(rest)
    matrix[np.ix_(outer, outer)] = rest
    for own, near, _, solved in blocks:
        matrix[np.ix_(own, outer)] = -solved @ rest[near]
    across = np.ascontiguousarray(matrix[np.ix_(inner, outer)].T)
    matrix[np.ix_(outer, inner)] = across
    for own, near, inverse, solved in blocks:
        matrix[np.ix_(own, inner)] = -solved @ across[near]
        matrix[np.ix_(own, own)] += inverse
    return None


def sweep(matrix: Square) -> None:
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
