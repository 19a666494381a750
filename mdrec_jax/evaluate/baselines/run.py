"""The baselines: what is reached without a network. No JAX.

    popularity         how often the item occurs in the training events of the query's domain
    transitions        5-step transition counts (`transitions.py`) over whole training sequences, domains mixed
    transitions-local  the same from each domain's own events alone, where that is something else

Beside these stand the linear ones, whose settings the validation split chooses (`tuned_baselines.py`, `tuning.py`):
they take minutes, so `mdrec baselines` works them out once and leaves them with the data set, where `mdrec evaluate`
finds them.

Whatever they count is counted in training events alone, as a model's parameters are; a history holds what the split may
see (at test: training and validation events). A model that does not beat them has learned little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from mdrec_jax.data.batching.streams import ROLE_TRAIN, plain
from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.baselines.transitions import (
    NOTHING_REACHED,
    STEPS,
    BaseScores,
    Reached,
    TransitionCounts,
    base_scores,
    count_transitions,
    rank_all,
    rank_among,
    reach,
)
from mdrec_jax.evaluate.baselines.tuning import Tuned, tuned_ranks
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, evaluation_set, item_counts
from mdrec_jax.evaluate.looks_at_test import check_recordable, headline, record_look
from mdrec_jax.evaluate.make_results import make_results
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import Ranks, concatenate, load_ranks, rank_from_counts
from mdrec_jax.evaluate.results import TUNED, Results, read_results

BLOCK = 256
"""Queries that are scored at once."""
TIE_BREAK = 1e-6
"""The share of popularity in the score of transitions."""

type Reach = Callable[[Int64[np.ndarray, "B"]], Reached]


@dataclass(frozen=True)
class BaselineScores:
    """A baseline in one domain: what items score anyway, and what transitions add for some queries."""

    base: BaseScores
    reach: Reach


def baseline_ranks(eval_set: EvaluationSet) -> dict[str, Ranks]:
    """The ranks of every baseline that makes sense on the data set, by name."""
    train = plain(eval_set.dataset.role) == ROLE_TRAIN
    shared = count_training(eval_set.dataset, train)
    parts: dict[str, list[Ranks]] = {}
    for domain in eval_set.domains():
        baselines = _baselines_of(eval_set, domain, train, shared)
        for some in eval_set.blocks(domain, BLOCK):
            for name, ranks in _block_ranks(eval_set, baselines, some).items():
                parts.setdefault(name, []).append(ranks)
    return {name: concatenate(some) for name, some in parts.items()}


def count_training(dataset: Dataset, chosen: Bool[np.ndarray, "N"]) -> TransitionCounts:
    """Transition counts of the chosen events, in the order of each sequence."""
    place = np.flatnonzero(chosen)
    sequence = np.searchsorted(plain(dataset.sequence_offsets), place, side="right")
    return count_transitions(plain(dataset.item)[place], sequence, dataset.num_items)


def popularity(eval_set: EvaluationSet, domain: int) -> Float64[np.ndarray, "V"]:
    """Training counts in the domain; in all domains where the protocol ranks among all items."""
    if eval_set.protocol.universe == "all":
        return eval_set.train_counts.astype(np.float64)
    dataset = eval_set.dataset
    mine = (plain(dataset.role) == ROLE_TRAIN) & (plain(dataset.domain) == domain)
    return item_counts(dataset, mine).astype(np.float64)


def _baselines_of(
    eval_set: EvaluationSet, domain: int, train: Bool[np.ndarray, "N"], shared: TransitionCounts
) -> dict[str, BaselineScores]:
    universe, popular = eval_set.universe(domain), popularity(eval_set, domain)
    baselines = {"popularity": BaselineScores(base_scores(popular, universe), lambda _: NOTHING_REACHED)}
    if not eval_set.dataset.manifest.ordered:
        return baselines
    base = _tie_breaking(eval_set.train_counts, universe)
    baselines["transitions"] = BaselineScores(base, lambda some: reach(shared, _recent(eval_set, some, None)))
    if _domains_meet(eval_set.dataset):
        mine = train & (plain(eval_set.dataset.domain) == domain)
        local, base = (
            count_training(eval_set.dataset, mine),
            _tie_breaking(item_counts(eval_set.dataset, mine), universe),
        )
        baselines["transitions-local"] = BaselineScores(
            base, lambda some: reach(local, _recent(eval_set, some, domain))
        )
    return baselines


def _tie_breaking(counts: Int64[np.ndarray, "V"], universe: Int[np.ndarray, "U"]) -> BaseScores:
    """The share of popularity in transitions' scores: as popular as in the very events that were counted."""
    return base_scores(TIE_BREAK * counts / max(int(counts.max()), 1), universe)


def _domains_meet(dataset: Dataset) -> bool:
    """Whether a domain's transitions may come from another one: in a common sequence, or over a common item."""
    if dataset.num_domains == 1:
        return False
    if sum(map(len, dataset.domain_items)) > dataset.manifest.counts.items:
        return True
    domain, first = plain(dataset.domain), plain(dataset.sequence_offsets)[:-1]
    first = first[first < len(domain)]
    return bool((np.maximum.reduceat(domain, first) != np.minimum.reduceat(domain, first)).any())


def _recent(eval_set: EvaluationSet, some: Int64[np.ndarray, "B"], domain: int | None) -> Int[np.ndarray, "B K"]:
    """The last items of the visible histories (of one domain's events), the latest first."""
    if domain is None:
        return eval_set.latest(some, STEPS)
    places = Csr(*eval_set.queries.history_places(some))
    places = places.keep(plain(eval_set.dataset.domain)[places.values] == domain)
    return Csr(places.offsets, plain(eval_set.dataset.item)[places.values]).last(STEPS)


def _block_ranks(
    eval_set: EvaluationSet, baselines: dict[str, BaselineScores], some: Int64[np.ndarray, "B"]
) -> dict[str, Ranks]:
    """The ranks that every baseline gives to a block of queries; candidates are drawn once for all of them."""
    protocol, target = eval_set.protocol, eval_set.queries.target[some]
    reached = {name: one.reach(some) for name, one in baselines.items()}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in baselines}
    for number in range(protocol.draws):
        among = eval_set.candidates(some, number) if protocol.sampled else eval_set.seen(some)
        for name, one in baselines.items():
            if isinstance(among, Csr):
                counts = rank_all(reached[name], one.base, target, among)
            else:
                counts = rank_among(reached[name], one.base, target, among)
            columns[name].append(rank_from_counts(*counts, protocol.ties))
    return {name: eval_set.ranks(some, np.stack(ranks, axis=1)) for name, ranks in columns.items()}


def baseline_results(
    dataset: Dataset,
    protocol: Protocol,
    *,
    metrics: Sequence[str] = (),
    tuned: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    by: str = "Python",
) -> tuple[Results, dict[str, Ranks]]:
    """The baselines of a data set under a protocol, and their ranks. A look at the test split is recorded with the data
    set, with the command (`by`) that made it.

    Args:
        tuned: also those whose settings the validation split chooses (`tuning.py`).
        tell: is told what was chosen, one domain and baseline after the other.

    Raises:
        InputError: as `evaluation_set`, or a look at test that cannot be recorded.
    """
    if protocol.split == "test":
        check_recordable(baselines_folder(dataset))
    eval_set = evaluation_set(dataset, protocol)
    ranks, more = baseline_ranks(eval_set), Tuned({}, {}, {})
    if tuned:
        more = tuned_ranks(eval_set, tell)
        ranks |= more.ranks
    models = {name: [one] for name, one in ranks.items()}
    results = make_results(eval_set, models, config=None, metrics=metrics, counts=more.counts)
    if protocol.split == "test":
        look = {"by": by, "what": "baselines", "protocol": protocol.name, "split": "test", "dataset": dataset.hash}
        record_look(baselines_folder(dataset), {**look, "models": {name: headline(results, name) for name in ranks}})
    return replace(results, settings=more.settings), ranks


def baselines_folder(dataset: Dataset) -> Path:
    """Where the results of baselines and the record of their looks at test stand: in the data set's folder, so that
    they go when it is made anew."""
    return dataset.path / "baselines"


def baselines_file(dataset: Dataset, protocol: Protocol) -> Path:
    """Where `mdrec baselines` leaves its results."""
    name = protocol.name.replace(":", "-").replace("/", "-")
    seed = f"-seed-{protocol.seed}" if protocol.seed else ""
    time = "-query-time" if protocol.query_time_visible else ""
    return baselines_folder(dataset) / f"{protocol.split}-{name}{seed}{time}.json"


def stored_ranks(eval_set: EvaluationSet) -> dict[str, Ranks]:
    """The ranks of tuned baselines that `mdrec baselines` left about this data set and protocol; empty if it did not.

    Raises:
        InputError: its file is damaged.
    """
    path = baselines_file(eval_set.dataset, eval_set.protocol)
    if not path.is_file():
        return {}
    results = read_results(path)
    if results.dataset != eval_set.dataset.hash or results.protocol != eval_set.protocol:
        return {}
    found = {name: load_ranks(path.parent / results.ranks[name][0]) for name in TUNED if name in results.ranks}
    return {name: ranks for name, ranks in found.items() if np.array_equal(ranks.query, eval_set.number)}
