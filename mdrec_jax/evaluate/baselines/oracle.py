"""The ceiling: ranks by the distribution that a planted world really drew from. What lies above it is luck."""

import numpy as np

from mdrec_jax.data.synthetic import load_truth, oracle_scores, truth_history
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.ranks import Ranks, concatenate, rank_from_counts

type Pair = tuple[np.ndarray, np.ndarray]

BLOCK = 256
"""Queries that are scored at once."""


def oracle_ranks(eval_set: EvaluationSet, *, knows_intent: bool = False) -> Ranks:
    """Ranks given the factors, the past and the last session's intent of a planted world.

    Args:
        eval_set: queries on a data set of `mdrec synthetic`, ranked within the target's domain.
        knows_intent: also tell the oracle the intent of the session that the target belongs to.

    Raises:
        InputError: the data set has no truth, or the protocol ranks over all domains.
    """
    if eval_set.protocol.universe != "target_domain":
        raise InputError("the truth ranks within a domain", column="universe", found=eval_set.protocol.universe)
    truth = load_truth(eval_set.dataset)
    history = truth_history(truth, eval_set.dataset)
    parts = []
    for domain in eval_set.domains():
        ids = eval_set.universe(domain)
        for some in eval_set.blocks(domain, BLOCK):
            odds = oracle_scores(truth, history, eval_set.queries.place[some], domain, knows_intent=knows_intent)
            rows = np.arange(len(some))
            mine = odds[rows, np.searchsorted(ids, eval_set.queries.target[some])][:, None]
            if eval_set.protocol.sampled:
                draws = range(eval_set.protocol.draws)
                counted = [_among(odds, mine, ids, eval_set.candidates(some, number)) for number in draws]
            else:
                counted = [_unseen(eval_set, some, odds, mine, ids)]
            rank = np.stack([rank_from_counts(*pair, eval_set.protocol.ties) for pair in counted], axis=1)
            parts.append(eval_set.ranks(some, rank))
    return concatenate(parts)


def _unseen(eval_set: EvaluationSet, some: np.ndarray, odds: np.ndarray, mine: np.ndarray, ids: np.ndarray) -> Pair:
    """How many unseen items lie above the target, and how many beside it."""
    open_ = np.ones(odds.shape, bool)
    seen = eval_set.seen(some)
    column = np.minimum(np.searchsorted(ids, seen.values), len(ids) - 1)
    here = ids[column] == seen.values
    open_[seen.owner[here], column[here]] = False
    return ((odds > mine) & open_).sum(1), ((odds == mine) & open_).sum(1) - 1


def _among(odds: np.ndarray, mine: np.ndarray, ids: np.ndarray, candidates: np.ndarray) -> Pair:
    """The same among some candidates, of which 0 is none."""
    theirs = np.take_along_axis(odds, np.minimum(np.searchsorted(ids, candidates), len(ids) - 1), axis=1)
    return ((theirs > mine) & (candidates > 0)).sum(1), ((theirs == mine) & (candidates > 0)).sum(1)
