"""What of a prepared log may not be what it looks like: rows that stand there twice, an order that is one of ids, and
events that a user's later training knows."""

import numpy as np
from jaxtyping import Bool

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.ordering import raw_rank
from mdrec_jax.data.prepare.splits import TEST, TRAIN


def same_time_share(dataset: Dataset) -> float:
    """The share of neighbouring events of a sequence that are of one second."""
    inside = _neighbours(dataset)
    return float((_same_second(dataset) & inside).sum() / max(1, inside.sum()))


def copies(dataset: Dataset) -> int:
    """Events that repeat an earlier one in sequence, domain, item, type and second; 0 without times."""
    if not dataset.manifest.has_time:
        return 0
    tied = _neighbours(dataset) & _same_second(dataset)
    where = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))  # a copy is one of a tie
    group = np.cumsum(np.insert(~tied, 0, False))[where]
    columns = [np.asarray(column)[where] for column in (dataset.event, dataset.domain, dataset.item)] + [group]
    place = np.lexsort(columns)
    equal = np.ones(max(0, len(place) - 1), bool)
    for column in columns:
        equal &= column[place][1:] == column[place][:-1]
    return int(equal.sum())


def ascending_share(dataset: Dataset) -> tuple[int, float]:
    """(neighbouring events of a sequence and domain that are of one second, or all without times; the share of them in
    which the later has the higher raw id, half where ids say nothing of order)."""
    item, domain = np.asarray(dataset.item), np.asarray(dataset.domain)
    pairs = _neighbours(dataset) & (item[1:] != item[:-1]) & (domain[1:] == domain[:-1])
    if dataset.manifest.has_time:
        pairs &= _same_second(dataset)
    higher, rank = 0, np.full(dataset.num_items, -1)
    for number in range(dataset.num_domains):
        table = dataset.items(number)
        rank[table["id"].to_numpy()] = raw_rank(table["raw"])
        here = np.flatnonzero(pairs & (domain[1:] == number))
        higher += int((rank[item[here + 1]] > rank[item[here]]).sum())
    count = int(pairs.sum())
    return count, higher / max(1, count)


def with_later_training(dataset: Dataset) -> tuple[int, int]:
    """(test targets behind which, in their sequence, training events stand; all test targets).

    Split "loo" holds out by domain, so a model has seen what the user did elsewhere afterwards; "loo-mixed" holds out
    the end of the whole sequence. What counts is the order that a model reads, which between events of one second is
    that of the tie rule; validation events are not trained on.
    """
    role = np.asarray(dataset.role)
    cuts = np.asarray(dataset.sequence_offsets)
    trained = np.concatenate([[0], np.cumsum(role == TRAIN)])
    tests = np.flatnonzero(role == TEST)
    end = cuts[np.searchsorted(cuts, tests, side="right")]
    return int((trained[end] > trained[tests]).sum()), len(tests)


def _neighbours(dataset: Dataset) -> Bool[np.ndarray, " N-1"]:
    """Whether event n + 1 is of event n's sequence."""
    inside = np.ones(max(0, len(dataset.item) - 1), bool)
    cuts = np.asarray(dataset.sequence_offsets)[1:-1]
    inside[cuts[(cuts > 0) & (cuts < len(dataset.item))] - 1] = False
    return inside


def _same_second(dataset: Dataset) -> Bool[np.ndarray, " N-1"]:
    time = np.asarray(dataset.time)
    return time[1:] == time[:-1]
