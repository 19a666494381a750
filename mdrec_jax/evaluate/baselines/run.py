"""The baselines: what is reached without a network. No JAX.

    popularity         how often the item occurs in the training events of the query's domain
    transitions        5-step transition counts (`transitions.py`) over whole training sequences, domains mixed
    transitions-local  the same from each domain's own events alone, where that is something else

Beside these stand the linear ones, whose settings the validation split chooses (`methods.py`, `tuning.py`): they take
minutes, so `mdrec baselines` works them out once and leaves them with the data set, where `mdrec evaluate` finds them.

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
from mdrec_jax.evaluate.evaluation import make_results
from mdrec_jax.evaluate.evaluation_set import Asked, ask, item_counts
from mdrec_jax.evaluate.looks import check_recordable, headline, record_look
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


def baseline_ranks(asked: Asked) -> dict[str, Ranks]:
    """The ranks of every baseline that makes sense on the data set, by name."""
    train = plain(asked.dataset.role) == ROLE_TRAIN
    shared = count_training(asked.dataset, train)
    parts: dict[str, list[Ranks]] = {}
    for domain in asked.domains():
        baselines = _baselines_of(asked, domain, train, shared)
        for some in asked.blocks(domain, BLOCK):
            for name, ranks in _block_ranks(asked, baselines, some).items():
                parts.setdefault(name, []).append(ranks)
    return {name: concatenate(some) for name, some in parts.items()}


def count_training(dataset: Dataset, chosen: Bool[np.ndarray, "N"]) -> TransitionCounts:
    """Transition counts of the chosen events, in the order of each sequence."""
    place = np.flatnonzero(chosen)
    sequence = np.searchsorted(plain(dataset.sequence_offsets), place, side="right")
    return count_transitions(plain(dataset.item)[place], sequence, dataset.num_items)


def popularity(asked: Asked, domain: int) -> Float64[np.ndarray, "V"]:
    """Training counts in the domain; in all domains where the protocol ranks among all items."""
    if asked.protocol.universe == "all":
        return asked.train_counts.astype(np.float64)
    dataset = asked.dataset
    mine = (plain(dataset.role) == ROLE_TRAIN) & (plain(dataset.domain) == domain)
    return item_counts(dataset, mine).astype(np.float64)


def _baselines_of(
    asked: Asked, domain: int, train: Bool[np.ndarray, "N"], shared: TransitionCounts
) -> dict[str, BaselineScores]:
    universe, popular = asked.universe(domain), popularity(asked, domain)
    baselines = {"popularity": BaselineScores(base_scores(popular, universe), lambda _: NOTHING_REACHED)}
    if not asked.dataset.manifest.ordered:
        return baselines
    base = _tie_breaking(asked.train_counts, universe)
    baselines["transitions"] = BaselineScores(base, lambda some: reach(shared, _recent(asked, some, None)))
    if _domains_meet(asked.dataset):
        mine = train & (plain(asked.dataset.domain) == domain)
        local, base = count_training(asked.dataset, mine), _tie_breaking(item_counts(asked.dataset, mine), universe)
        baselines["transitions-local"] = BaselineScores(base, lambda some: reach(local, _recent(asked, some, domain)))
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


def _recent(asked: Asked, some: Int64[np.ndarray, "B"], domain: int | None) -> Int[np.ndarray, "B K"]:
    """The last items of the visible histories (of one domain's events), the latest first."""
    if domain is None:
        return asked.latest(some, STEPS)
    places = Csr(*asked.queries.history_places(some))
    places = places.keep(plain(asked.dataset.domain)[places.values] == domain)
    return Csr(places.offsets, plain(asked.dataset.item)[places.values]).last(STEPS)


def _block_ranks(asked: Asked, baselines: dict[str, BaselineScores], some: Int64[np.ndarray, "B"]) -> dict[str, Ranks]:
    """The ranks that every baseline gives to a block of queries; candidates are drawn once for all of them."""
    protocol, target = asked.protocol, asked.queries.target[some]
    reached = {name: one.reach(some) for name, one in baselines.items()}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in baselines}
    for number in range(protocol.draws):
        among = asked.candidates(some, number) if protocol.sampled else asked.seen(some)
        for name, one in baselines.items():
            if isinstance(among, Csr):
                counts = rank_all(reached[name], one.base, target, among)
            else:
                counts = rank_among(reached[name], one.base, target, among)
            columns[name].append(rank_from_counts(*counts, protocol.ties))
    return {name: asked.ranks(some, np.stack(ranks, axis=1)) for name, ranks in columns.items()}


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
    set, as asked for `by` this one.

    Args:
        tuned: also those whose settings the validation split chooses (`tuning.py`).
        tell: is told what was chosen, one domain and baseline after the other.

    Raises:
        InputError: as `ask`, or a look at test that cannot be recorded.
    """
    if protocol.split == "test":
        check_recordable(baselines_folder(dataset))
    asked = ask(dataset, protocol)
    ranks, more = baseline_ranks(asked), Tuned({}, {}, {})
    if tuned:
        more = tuned_ranks(asked, tell)
        ranks |= more.ranks
    models = {name: [one] for name, one in ranks.items()}
    results = make_results(asked, models, config=None, metrics=metrics, counts=more.counts)
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


def stored_ranks(asked: Asked) -> dict[str, Ranks]:
    """The ranks of tuned baselines that `mdrec baselines` left about this data set and protocol; empty if it did not.

    Raises:
        InputError: its file is damaged.
    """
    path = baselines_file(asked.dataset, asked.protocol)
    if not path.is_file():
        return {}
    results = read_results(path)
    if results.dataset != asked.dataset.hash or results.protocol != asked.protocol:
        return {}
    found = {name: load_ranks(path.parent / results.ranks[name][0]) for name in TUNED if name in results.ranks}
    return {name: ranks for name, ranks in found.items() if np.array_equal(ranks.query, asked.number)}
