"""The best possible ranking: the distribution that a planted world really drew the next event from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from mdrec_jax.data.synthetic.config import SyntheticConfig
from mdrec_jax.data.synthetic.factors import Factors, biases, intent_odds, softmax, wishes
from mdrec_jax.data.synthetic.routines import routine_items


@dataclass(frozen=True)
class History:
    """What lies before each event of a log of N events, user by user in order."""

    user: Int[np.ndarray, " N"]
    item: Int[np.ndarray, " N"]
    domain: Int[np.ndarray, " N"]
    first: Int[np.ndarray, " N"]
    """Index of the first event of the event's user."""
    intent: Int[np.ndarray, " N"]
    intent_before: Int[np.ndarray, " N"]
    """Short-term intent of the event before; -1 = there is none."""
    previous: Int[np.ndarray, " N"]
    """The user's latest genuine ordinary item before the event; -1 = none."""
    previous_own: Int[np.ndarray, " N"]
    """The same in the event's domain."""
    final: Bool[np.ndarray, " N"]
    """The user's last event in its domain."""
    again: Int[np.ndarray, " N"]
    """The item that it would be by routine; -1 = none."""
    channel: Int[np.ndarray, " N"]
    value: Int[np.ndarray, " N"]


def make_history(
    user: Int[np.ndarray, " N"],
    item: Int[np.ndarray, " N"],
    domain: Int[np.ndarray, " N"],
    intent: Int[np.ndarray, " N"],
    noise: Bool[np.ndarray, " N"],
    channel: Int[np.ndarray, " N"],
    value: Int[np.ndarray, " N"],
    item_kind: Int[np.ndarray, " I"],
) -> History:
    """Looks backwards from every event; events of a user stand together and in order."""
    count = len(user)
    index = np.arange(count)
    starts = np.r_[True, user[1:] != user[:-1]]
    first = np.maximum.accumulate(np.where(starts, index, 0))
    genuine = ~noise & (value < 0) & (item_kind[item] == 0)
    by_domain = np.lexsort((index, domain, user))
    own_starts = np.r_[True, (np.diff(user[by_domain]) != 0) | (np.diff(domain[by_domain]) != 0)]
    own_first = np.maximum.accumulate(np.where(own_starts, index, 0))
    previous_own = np.full(count, -1)
    previous_own[by_domain] = _latest(item[by_domain], genuine[by_domain], own_first)
    final = np.zeros(count, bool)
    final[by_domain] = np.r_[own_starts[1:], True]
    return History(
        user=user,
        item=item,
        domain=domain,
        first=first,
        intent=intent,
        intent_before=np.where(starts, -1, np.r_[-1, intent[:-1]]),
        previous=_latest(item, genuine, first),
        previous_own=previous_own,
        final=final,
        again=routine_items(user, item, domain),
        channel=channel,
        value=value,
    )


def _latest(item: np.ndarray, counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The item of the latest event strictly before each one that `counts`, not before `first`; -1 = none."""
    seen = np.maximum.accumulate(np.where(counts, np.arange(len(item)), -1))
    before = np.r_[-1, seen[:-1]]
    return np.where(before >= first, item[before], -1)


def next_item_odds(
    config: SyntheticConfig,
    factors: Factors,
    history: History,
    events: Int[np.ndarray, " Q"],
    domain: int,
    *,
    knows_intent: bool = False,
) -> Float64[np.ndarray, "Q I"]:
    """Probability that each item of `domain` is the item of each event, given the truth up to the event before.

    What is known: all factors, the user's genuine and noisy past, the last session's intent, and that a long intent
    decides the event where one does. What is not: whether the event is noise, whether a session starts with it and
    with which intent (unless `knows_intent`). No ranking made from the past can be better in expectation.

    Args:
        events: indices into `history`, each an event of `domain`. Keep Q * I * Z moderate: blocks of some hundreds.
    """
    user = history.user[events]
    ids = factors.domain_items[domain]
    warm, final = biases(factors, config, domain)
    reach = np.where(history.final[events, None], final, warm)
    closed = np.zeros(reach.shape, bool) if config.repeats else _seen(history, events, ids, len(factors.item_home))
    reach = np.where(closed, -np.inf, reach)
    weight = _intent_weights(config, factors, history, events, knows_intent)
    odds = np.zeros(reach.shape)
    for z in range(config.intents):
        rows = np.flatnonzero(weight[:, z] > 0)
        intent = np.full(len(rows), z)
        before, own = history.previous[events[rows]], history.previous_own[events[rows]]
        shared, specific = wishes(factors, config, domain, user[rows], intent, before, own)
        logits = shared @ factors.item_shared[ids].T + specific @ factors.item_specific[ids].T + reach[rows]
        odds[rows] += weight[rows, z, None] * softmax(logits)
    again = history.again[events]
    by_routine = np.where(again >= 0, config.routine, 0.0)[:, None]
    odds = (1 - by_routine) * odds + by_routine * (ids == again[:, None])
    odds = (1 - config.noise) * odds + config.noise * softmax(np.where(closed, -np.inf, warm))
    for row in np.flatnonzero(history.value[events] >= 0):
        led = np.isin(ids, factors.long_sets[history.channel[events[row]], history.value[events[row]]])
        odds[row] = led / led.sum()
    return odds


def _intent_weights(
    config: SyntheticConfig, factors: Factors, history: History, events: np.ndarray, knows_intent: bool
) -> Float64[np.ndarray, "Q Z"]:
    each = np.arange(config.intents)
    if knows_intent:
        return (history.intent[events, None] == each).astype(float)
    before = history.intent_before[events]
    fresh = np.where(before >= 0, 1 / config.session_length, 1.0)[:, None]
    return fresh * intent_odds(factors, config, history.user[events], before) + (1 - fresh) * (before[:, None] == each)


def _seen(history: History, events: np.ndarray, ids: np.ndarray, num_items: int) -> np.ndarray:
    """[Q, I]: whether the event's user met the item of `ids` before it."""
    seen = np.zeros((len(events), num_items), bool)
    for row, event in enumerate(events):
        seen[row, history.item[history.first[event] : event]] = True
    return seen[:, ids]
