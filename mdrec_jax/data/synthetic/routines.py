"""Routines: a user who meets an item again goes on in that domain as the last time."""

import numpy as np
from jaxtyping import Bool, Int

from mdrec_jax.data.synthetic.config import SyntheticConfig


class Routines:
    """What every user's items of one domain were followed by when they last met them."""

    def __init__(self, config: SyntheticConfig, items: int) -> None:
        self.share = config.routine
        self.next = np.full((config.users, items + 1), -1)
        self.last = np.full(config.users, items)  # no item yet: nothing is ever read behind it

    def step(
        self,
        user: Int[np.ndarray, " Q"],
        drawn: Int[np.ndarray, " Q"],
        genuine: Bool[np.ndarray, " Q"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, " Q"]:
        """The users' next items in the domain: by routine, else as `drawn`; both are places in the domain's items."""
        again = self.next[user, self.last[user]]
        item = np.where(genuine & (again >= 0) & (rng.random(len(user)) < self.share), again, drawn)
        self.next[user, self.last[user]] = item
        self.last[user] = item
        return item


def routine_items(
    user: Int[np.ndarray, " N"], item: Int[np.ndarray, " N"], domain: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """What each event would be by routine: the item that came next in the domain when its user last met what they met
    before it; -1 = there was no such time. Events of a user stand together and in order.
    """
    before = _latest(item, user, domain)
    return np.where(before >= 0, _latest(item, user, domain, before), -1)


def _latest(item: Int[np.ndarray, " N"], *group: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """The item of the event before within each event's group; -1 = it is the first."""
    order = np.lexsort((np.arange(len(item)), *group))
    same = np.all([np.diff(key[order]) == 0 for key in group], axis=0)
    before = np.full(len(item), -1)
    before[order[1:]] = np.where(same, item[order[:-1]], -1)
    return before
