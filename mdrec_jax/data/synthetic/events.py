"""Drawing the events of a planted world, user by user in step: event t of all users, then event t + 1."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mdrec_jax.data.synthetic.config import SyntheticConfig
from mdrec_jax.data.synthetic.factors import Factors, biases, softmax, wishes
from mdrec_jax.data.synthetic.plan import WorldPlan
from mdrec_jax.data.synthetic.routines import Routines

BLOCK = 1 << 22
"""Logits held at once."""


@dataclass(frozen=True)
class Events:
    """A world's N events, user by user in order."""

    user: Int[np.ndarray, " N"]
    item: Int[np.ndarray, " N"]
    domain: Int[np.ndarray, " N"]
    buy: Bool[np.ndarray, " N"]
    time: Int[np.ndarray, " N"]
    session: Int[np.ndarray, " N"]
    intent: Int[np.ndarray, " N"]
    noise: Bool[np.ndarray, " N"]
    channel: Int[np.ndarray, " N"]
    value: Int[np.ndarray, " N"]
    gap: Int[np.ndarray, " N"]
    role: Int[np.ndarray, " N"]


def draw_events(config: SyntheticConfig, factors: Factors, plan: WorldPlan) -> Events:
    """Draws every event's item and behaviour type; a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, 5])
    users, width = plan.domain.shape
    item = np.full((users, width), -1)
    previous = np.full(users, -1)
    previous_own = np.full((users, config.domains), -1)
    draws = [_Domain(config, factors, g) for g in range(config.domains)]
    for t in range(int(plan.length.max())):
        alive = np.flatnonzero(t < plan.length)
        for g in range(config.domains):
            here = alive[plan.domain[alive, t] == g]
            for part in np.array_split(here, max(1, -(-len(here) * len(factors.domain_items[g]) // BLOCK))):
                if len(part):
                    item[part, t] = draws[g].draw(
                        plan, part, t, item[part, :t], previous[part], previous_own[part, g], rng
                    )
            item[here, t] = draws[g].by_routine(here, item[here, t], ~plan.noise[here, t])
        planted = plan.planted[alive, t] >= 0
        item[alive[planted], t] = plan.planted[alive[planted], t]
        genuine = alive[~planted & (plan.value[alive, t] < 0) & ~plan.noise[alive, t]]
        previous[genuine] = item[genuine, t]
        previous_own[genuine, plan.domain[genuine, t]] = item[genuine, t]
    return _flatten(config, factors, plan, item, rng)


class _Domain:
    """Draws items of one domain."""

    def __init__(self, config: SyntheticConfig, factors: Factors, domain: int) -> None:
        self.config, self.factors, self.domain = config, factors, domain
        self.ids = factors.domain_items[domain]
        self.warm, self.final = biases(factors, config, domain)
        self.local = np.full(len(factors.item_home), -1)
        self.local[self.ids] = np.arange(len(self.ids))
        self.routines = Routines(config, len(self.ids)) if config.routine else None
        self.routine_rng = np.random.default_rng([config.seed, 7, domain])

    def draw(
        self,
        plan: WorldPlan,
        user: Int[np.ndarray, " Q"],
        t: int,
        history: Int[np.ndarray, "Q E"],
        previous: Int[np.ndarray, " Q"],
        previous_own: Int[np.ndarray, " Q"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, " Q"]:
        """Event t of the users; `history` holds their items so far."""
        factors, config = self.factors, self.config
        shared, specific = wishes(factors, config, self.domain, user, plan.intent[user, t], previous, previous_own)
        logits = shared @ factors.item_shared[self.ids].T + specific @ factors.item_specific[self.ids].T
        logits[plan.noise[user, t]] = 0
        free = plan.final[user, t] & ~plan.noise[user, t]
        logits += np.where(free[:, None], self.final, self.warm)
        if not config.repeats:
            row, column = np.nonzero(self.local[history] >= 0)
            logits[row, self.local[history[row, column]]] = -np.inf
        for row in np.flatnonzero(plan.value[user, t] >= 0):
            led = self.local[factors.long_sets[plan.channel[user[row], t], plan.value[user[row], t]]]
            logits[row] = -np.inf
            logits[row, led] = 0
        odds = softmax(logits).cumsum(1)
        return self.ids[(odds < rng.random((len(user), 1)) * odds[:, -1:]).sum(1)]

    def by_routine(
        self, user: Int[np.ndarray, " Q"], drawn: Int[np.ndarray, " Q"], genuine: Bool[np.ndarray, " Q"]
    ) -> Int[np.ndarray, " Q"]:
        """What the users meet instead of what was drawn, where they have a routine."""
        if self.routines is None:
            return drawn
        return self.ids[self.routines.step(user, self.local[drawn], genuine, self.routine_rng)]


def _flatten(
    config: SyntheticConfig, factors: Factors, plan: WorldPlan, item: np.ndarray, rng: np.random.Generator
) -> Events:
    inside = np.arange(item.shape[1]) < plan.length[:, None]
    user = np.repeat(np.arange(len(item)), plan.length)
    flat = {
        name: getattr(plan, name)[inside]
        for name in ("domain", "time", "session", "intent", "noise", "channel", "value", "gap", "role")
    }
    items = item[inside]
    fit = (factors.user_shared[user] * factors.item_shared[items]).sum(1)
    fit += (factors.user_specific[user, flat["domain"]] * factors.item_specific[items]).sum(1)
    fit /= np.sqrt(config.shared_factors + config.specific_factors)
    share = np.clip(config.buy_share, 1e-9, 1 - 1e-9)
    chance = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + fit - fit.mean())))
    genuine = ~flat["noise"] & (factors.item_kind[items] == 0)
    return Events(user=user, item=items, buy=(rng.random(len(items)) < chance) & genuine, **flat)
