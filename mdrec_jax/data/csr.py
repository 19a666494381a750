"""Lists of different lengths in two flat arrays, as the rows of a matrix in compressed sparse row (CSR) format: list i
is `values[offsets[i] : offsets[i + 1]]`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, Shaped


@dataclass(frozen=True)
class Csr:
    """B lists of item ids (or of event indices)."""

    offsets: Int64[np.ndarray, "B+1"]
    values: Int[np.ndarray, "E"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, "B"]:
        return np.diff(self.offsets)

    @property
    def owner(self) -> Int64[np.ndarray, "E"]:
        """The list that each value stands in."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def keep(self, mask: Bool[np.ndarray, "E"]) -> "Csr":
        """The lists without the values whose mask is False, in the same order."""
        return Csr(from_lengths(np.bincount(self.owner[mask], minlength=len(self))), self.values[mask])

    def take(self, index: Int[np.ndarray, "b"]) -> "Csr":
        """Lists `index`, in that order."""
        events = spans(self.offsets[index], self.offsets[index + 1])
        return Csr(events.offsets, self.values[events.values])

    def unique(self) -> "Csr":
        """Every list sorted, each value once. Values must be at least 0."""
        span = int(self.values.max(initial=0)) + 1
        keys = np.sort(self.owner * span + self.values)  # np.unique goes by hashes: ten times as long here
        keys = keys[np.diff(keys, prepend=-1) > 0]
        owner, values = np.divmod(keys, span)
        return Csr(from_lengths(np.bincount(owner, minlength=len(self))), values.astype(self.values.dtype))

    def padded(self, width: int | None = None) -> Int32[np.ndarray, "B W"]:
        """A matrix with a list a row, 0 behind its end. `width` must hold the longest list."""
        width = int(self.lengths.max(initial=0)) if width is None else width
        return self.beside(self.values.astype(np.int32), width)

    def beside(self, values: Shaped[np.ndarray, "E"], width: int) -> Shaped[np.ndarray, "B W"]:
        """The same matrix of other values, one for each of these."""
        out = np.zeros((len(self), width), values.dtype)
        out[self.owner, np.arange(len(values)) - np.repeat(self.offsets[:-1], self.lengths)] = values
        return out

    def last(self, count: int) -> Int32[np.ndarray, "B K"]:
        """The last `count` values of every list, the latest first; 0 where a list is shorter."""
        place = self.offsets[1:, None] - 1 - np.arange(count)
        there = place >= self.offsets[:-1, None]
        if not len(self.values):
            return np.zeros(place.shape, np.int32)
        return np.where(there, self.values[np.where(there, place, 0)], 0).astype(np.int32)


def from_lengths(lengths: Int[np.ndarray, "B"]) -> Int64[np.ndarray, "B+1"]:
    """Offsets of lists that lie one behind the other."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def concatenated_ranges(start: Int[np.ndarray, " K"], length: Int[np.ndarray, " K"]) -> Int64[np.ndarray, " n"]:
    """start[0], start[0]+1, ... (length[0] of them), then start[1], ...: one flat array."""
    length = length.astype(np.int64, copy=False)
    end = np.cumsum(length)
    total = int(end[-1]) if end.size else 0
    return np.repeat(start - (end - length), length) + np.arange(total)


def spans(start: Int[np.ndarray, "B"], stop: Int[np.ndarray, "B"]) -> Csr:
    """The whole numbers start[i] .. stop[i] - 1 of every i."""
    lengths = np.maximum(stop - start, 0)
    return Csr(from_lengths(lengths), concatenated_ranges(start, lengths))


def with_one(lists: Csr, value: Int[np.ndarray, "B"]) -> Csr:
    """Every list with one more value at its end."""
    offsets = lists.offsets + np.arange(len(lists) + 1)
    values = np.insert(lists.values, lists.offsets[1:], value)
    return Csr(offsets, values)


def among(values: Int64[np.ndarray, "*N"], sorted_list: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "*N"]:
    """Which values a sorted list holds."""
    if not len(sorted_list):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(sorted_list, values), len(sorted_list) - 1)
    return sorted_list[place] == values
