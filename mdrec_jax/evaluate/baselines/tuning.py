"""The baselines of `tuned_baselines.py` with the settings that rank the validation split best, and their sum.

Settings are chosen for each domain by NDCG@10 of at most `QUERIES` validation queries, under the protocol that the test
is ranked by (one draw of negatives; full ranking where a file lists candidates for the test alone). `linear-blend` adds
the scores of all of them, standardised a query, with weights that are chosen the same way, one after the other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.candidate_items import CandidateItems, Competition, competition
from mdrec_jax.evaluate.baselines.item_item import LARGEST, standardised
from mdrec_jax.evaluate.baselines.tuned_baselines import Method, Scores, Settings, described, methods_for
from mdrec_jax.evaluate.evaluation_set import EvaluationSet, Some, evaluation_set
from mdrec_jax.evaluate.protocol import Protocol
from mdrec_jax.evaluate.ranks import Ranks, concatenate

QUERIES = 3000
"""Validation queries of a domain that settings are chosen by, the same ones each time."""
HELD = 1 << 28
"""Scores held at once while the weights of the sum are chosen (1 GiB)."""
BLOCK = 256
"""Queries that are scored at once."""
WEIGHTS = (0.0, 0.3, 1.0, 3.0)
ROUNDS = 2
BLEND = "linear-blend"


@dataclass(frozen=True)
class Tuned:
    """Ranks by method, and what they rest on."""

    ranks: dict[str, Ranks]
    settings: dict[str, dict[str, Settings]]
    """Method -> domain -> what was chosen."""
    counts: dict[str, int]


def tuned_ranks(eval_set: EvaluationSet, say: Callable[[str], None] = lambda _: None) -> Tuned:
    """The ranks of every method that makes sense on the data set, and of their sum.

    Args:
        say: is told what was chosen, as it is.
    """
    validation = _validation(eval_set)
    parts: dict[str, list[Ranks]] = {}
    settings: dict[str, dict[str, Settings]] = {}
    counts: dict[str, int] = {}
    if validation is None:
        counts["domains without validation queries, where settings are the first of each grid"] = len(
            eval_set.domains()
        )
    for domain in eval_set.domains():
        name, candidates = eval_set.dataset.manifest.domains[domain], CandidateItems.of(eval_set, domain)
        if left_out := candidates.left_out:
            counts[f"items of {name} unknown to itemknn, ease and next-ridge, which hold {LARGEST:,}"] = left_out
        methods = methods_for(candidates)
        chosen: dict[str, Settings] = {}
        grids = {method.name: method.grid for method in methods}
        for method, found in _choose(candidates, methods, domain, validation):
            chosen[method] = settings.setdefault(method, {})[name] = found
            say(f"{name}: {method}: {described(found, grids.get(method, (found,)))}")
        for some in eval_set.blocks(domain, BLOCK):
            for method, ranks in _block_ranks(eval_set, candidates, methods, chosen, some).items():
                parts.setdefault(method, []).append(ranks)
    return Tuned({name: concatenate(some) for name, some in parts.items()}, settings, counts)


def _block_ranks(
    eval_set: EvaluationSet,
    candidates: CandidateItems,
    methods: Sequence[Method],
    chosen: dict[str, Settings],
    some: Some,
) -> dict[str, Ranks]:
    against = competition(eval_set, some, candidates.place)
    ranks, total = {}, np.zeros((len(some), len(candidates.items)), np.float32)
    for method in methods:
        scores = method.scores(eval_set, some, chosen[method.name])
        ranks[method.name] = eval_set.ranks(some, against.ranks(scores))
        total += np.float32(chosen[BLEND][method.name]) * standardised(scores)
    ranks[BLEND] = eval_set.ranks(some, against.ranks(total))
    return ranks


def _validation(eval_set: EvaluationSet) -> EvaluationSet | None:
    """The validation split under the same protocol; None where the data set has none."""
    protocol = replace(eval_set.protocol, split="validation", draws=1)
    if protocol.candidates == "fixed":
        full = Protocol(split="validation", universe=protocol.universe, ties=protocol.ties)
        protocol = replace(full, query_time_visible=protocol.query_time_visible)
    try:
        return evaluation_set(eval_set.dataset, protocol)
    except InputError as error:
        if "no validation targets" in error.problem:
            return None
        raise


def _choose(
    candidates: CandidateItems, methods: Sequence[Method], domain: int, validation: EvaluationSet | None
) -> Iterator[tuple[str, Settings]]:
    """The settings of every method, one after the other, and the weights of their sum."""
    mine = np.zeros(0, np.int64) if validation is None else np.flatnonzero(validation.queries.domain == domain)
    if validation is None or not len(mine):
        yield from ((method.name, method.grid[0]) for method in methods)
        yield BLEND, {method.name: 1.0 for method in methods}
        return
    most = max(1, min(QUERIES, HELD // (len(candidates.items) * (len(methods) + 1))))
    if len(mine) > most:
        mine = np.sort(np.random.default_rng(0).choice(mine, most, replace=False))
    blocks = [mine[low : low + BLOCK] for low in range(0, len(mine), BLOCK)]
    rivals = [competition(validation, some, candidates.place) for some in blocks]
    held: dict[str, list[Scores]] = {}
    for method in methods:

        def value(tried: Settings, method: Method = method) -> float:
            return _ndcg(rivals, (method.scores(validation, some, tried) for some in blocks))

        tried = list(method.grid)
        values = [value(one) for one in tried]
        tried += [{**tried[int(np.argmax(values))], **change} for change in method.after]
        values += [value(one) for one in tried[len(values) :]]
        best = tried[int(np.argmax(values))]
        yield method.name, best
        held[method.name] = [standardised(method.scores(validation, some, best)) for some in blocks]
    yield BLEND, _weights(rivals, held)


def _weights(rivals: Sequence[Competition], held: dict[str, list[Scores]]) -> Settings:
    """Weights of a sum, each in turn the best of a few while the others stay."""
    weights = dict.fromkeys(held, 1.0)
    for _ in range(ROUNDS):
        for name, own in held.items():
            rest = [np.zeros_like(block) for block in own]
            for other, blocks in held.items():
                if other != name:
                    rest = [done + np.float32(weights[other]) * block for done, block in zip(rest, blocks, strict=True)]
            # The weight that is there already goes first: equals change nothing.
            tried = (weights[name], *WEIGHTS)
            values = [
                _ndcg(rivals, (np.float32(w) * mine + others for mine, others in zip(own, rest, strict=True)))
                for w in tried
            ]
            weights[name] = tried[int(np.argmax(values))]
    return weights


def _ndcg(rivals: Sequence[Competition], blocks: Iterable[Scores]) -> float:
    """NDCG@10 over all blocks."""
    ranks = np.concatenate([one.ranks(scores)[:, 0] for one, scores in zip(rivals, blocks, strict=True)])
    return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean())
