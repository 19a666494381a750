"""The ceiling: ranks by the distribution that a planted world really drew from. What lies above it is luck."""

import numpy as np

from mdrec_jax.data.synthetic import load_truth, oracle_scores, truth_history
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.evaluation_set import Asked
from mdrec_jax.evaluate.ranks import Ranks, concatenate, rank_from_counts

type Pair = tuple[np.ndarray, np.ndarray]

BLOCK = 256
"""Queries that are scored at once."""


def oracle_ranks(asked: Asked, *, knows_intent: bool = False) -> Ranks:
    """Ranks given the factors, the past and the last session's intent of a planted world.

    Args:
        asked: queries on a data set of `mdrec synthetic`, ranked within the target's domain.
        knows_intent: also tell the oracle the intent of the session that the target belongs to.

    Raises:
        InputError: the data set has no truth, or the protocol ranks over all domains.
    """
    if asked.protocol.universe != "target_domain":
        raise InputError("the truth ranks within a domain", column="universe", found=asked.protocol.universe)
    truth = load_truth(asked.dataset)
    history = truth_history(truth, asked.dataset)
    parts = []
    for domain in asked.domains():
        ids = asked.universe(domain)
        for some in asked.blocks(domain, BLOCK):
            odds = oracle_scores(truth, history, asked.queries.place[some], domain, knows_intent=knows_intent)
            rows = np.arange(len(some))
            mine = odds[rows, np.searchsorted(ids, asked.queries.target[some])][:, None]
            if asked.protocol.sampled:
                draws = range(asked.protocol.draws)
                counted = [_among(odds, mine, ids, asked.candidates(some, number)) for number in draws]
            else:
                counted = [_unseen(asked, some, odds, mine, ids)]
            rank = np.stack([rank_from_counts(*pair, asked.protocol.ties) for pair in counted], axis=1)
            parts.append(asked.ranks(some, rank))
    return concatenate(parts)


def _unseen(asked: Asked, some: np.ndarray, odds: np.ndarray, mine: np.ndarray, ids: np.ndarray) -> Pair:
    """How many unseen items lie above the target, and how many beside it."""
    open_ = np.ones(odds.shape, bool)
    seen = asked.seen(some)
    column = np.minimum(np.searchsorted(ids, seen.values), len(ids) - 1)
    here = ids[column] == seen.values
    open_[seen.owner[here], column[here]] = False
    return ((odds > mine) & open_).sum(1), ((odds == mine) & open_).sum(1) - 1


def _among(odds: np.ndarray, mine: np.ndarray, ids: np.ndarray, candidates: np.ndarray) -> Pair:
    """The same among some candidates, of which 0 is none."""
    theirs = np.take_along_axis(odds, np.minimum(np.searchsorted(ids, candidates), len(ids) - 1), axis=1)
    return ((theirs > mine) & (candidates > 0)).sum(1), ((theirs == mine) & (candidates > 0)).sum(1)
