"""What a planted world is made of."""

from dataclasses import dataclass

from mdrec_jax.codec import check_finite
from mdrec_jax.errors import ConfigError

DOMAIN_NAMES = ("books", "films", "groceries", "games", "music", "fashion", "sports", "travel")
"""Names of the first domains; later ones are called `domain8`, `domain9`, ..."""


@dataclass(frozen=True)
class SyntheticConfig:
    """A world of D domains whose every event is drawn from a known distribution.

    Args:
        users: number of users.
        items: items of a domain (beside the key and cue items of the long intents).
        domains: number of domains, D.
        overlap: share of users who are active in every domain; each of the others is active in one.
        item_overlap: share of a domain's items that all domains hold in common.
        domain_skew: domain g draws users and events in proportion to (g + 1) ** -domain_skew.
        shared_factors, specific_factors: width of the latent vectors that all domains share, and of a domain's own.
        themes: top level of the taxonomy, set by the shared factors, the same in every domain.
        groups, leaves: second level a domain, and third level a group, both set by the domain's specific factors.
        spread: standard deviation of an item around the centre of its taxonomy node (the factors' own is 1).
        intents: number of short-term intents; a session has one.
        session_length: mean number of events of a session.
        stay: probability that a user's next event is in the domain of the last one.
        preference, intent_strength, transition: weight of the user's factors, of the session's intent and of the
            previous items in an event's logits; 1 gives logits a standard deviation of sqrt(number of factors).
        popularity_skew: standard deviation of the items' log popularity.
        noise: share of events that are drawn by popularity alone.
        buy_share: about the share of genuine events that are a purchase; likely where the item fits the user.
        cold: share of a domain's items that appear in no training event, only at the end.
        cold_boost: added to the logit of a cold item where it may appear.
        mean_length, max_length: events a user: log-normal, at least 6 and 3 for each of the user's domains. With long
            intents a history ends with the last event that one decides.
        length_spread: standard deviation of the log length.
        repeats: whether a user may meet an item twice.
        routine: probability that a genuine event goes on as the last time: where the user met the previous item of the
            event's domain before, it is the item of the domain that came next then. A model needs two steps: to know
            what each event followed, and to find the one that followed the same.
        days: length of the calendar.
        long_channels: number of channels of long-term intent; 0 = none. A key item of channel c, met in domain c mod D,
            plants one of `long_intents` values; later, in domain c + 1 mod D, the channel's cue item is followed by an
            item of the set that the latest key of the channel decides. One key decides `long_echoes` events soon, and
            one after a long gap.
        long_intents: values of a channel (key items), each equally likely and independent of everything else.
        long_items: items in the set of one value, each equally likely.
        long_gap: (least, most) events between the key and the last event that it decides. As many as the least lie
            between that event and anything that tells the value: the key and the events it decided soon.
        long_echoes: events that a key decides soon, at distances up to `long_soon` events whose logarithm is uniform.
            Without them the way from a key to its set can only be learned across the gap.
        long_soon: events.
        text_width, image_width: width of the feature vectors; 0 = none.
        feature_noise: standard deviation of their noise (the part driven by the factors has 1).
        image_missing: share of the items that have no image (a row of zeros).
        seed: of everything.
    """

    users: int = 2500
    items: int = 500
    domains: int = 3
    overlap: float = 0.5
    item_overlap: float = 0.0
    domain_skew: float = 0.5
    shared_factors: int = 4
    specific_factors: int = 4
    themes: int = 8
    groups: int = 4
    leaves: int = 3
    spread: float = 0.35
    intents: int = 12
    session_length: float = 8.0
    stay: float = 0.7
    preference: float = 1.2
    intent_strength: float = 0.5
    transition: float = 0.8
    popularity_skew: float = 0.7
    noise: float = 0.1
    buy_share: float = 0.25
    cold: float = 0.05
    cold_boost: float = 1.0
    mean_length: float = 36.0
    max_length: int = 200
    length_spread: float = 0.5
    repeats: bool = False
    routine: float = 0.0
    days: int = 365
    long_channels: int = 0
    long_intents: int = 12
    long_items: int = 5
    long_gap: tuple[int, ...] = (300, 700)
    long_echoes: int = 4
    long_soon: int = 200
    text_width: int = 32
    image_width: int = 24
    feature_noise: float = 0.3
    image_missing: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_finite(self)
        for name in ("users", "domains", "shared_factors", "specific_factors", "themes", "groups", "leaves", "intents"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("overlap", "item_overlap", "noise", "buy_share", "cold", "stay", "routine", "image_missing"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share between 0 and 1")
        for name in ("domain_skew", "spread", "preference", "intent_strength", "transition", "popularity_skew"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("length_spread", "feature_noise", "long_channels", "text_width", "image_width", "seed"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _check(self.cold_boost >= 0, "cold_boost", self.cold_boost, "at least 0")
        _check(self.mean_length > 0, "mean_length", self.mean_length, "more than 0")
        _check(self.session_length >= 1, "session_length", self.session_length, "at least 1")
        _check(self.days >= 1, "days", self.days, "at least 1")
        least = self.min_length
        _check(self.max_length >= least, "max_length", self.max_length, f"at least {least}")
        _check(self.mean_length <= self.max_length, "mean_length", self.mean_length, "at most max_length")
        _check(self.item_overlap + self.cold <= 1, "item_overlap", self.item_overlap, "at most 1 - cold")
        _check(self.repeats or not self.routine, "repeats", self.repeats, "True where users have routines")
        room = 1 if self.repeats else self.max_length + 1
        _check(self.warm_items >= room, "items", self.items, f"at least {room} items that are not cold")
        if self.long_channels:
            self._check_long()

    def _check_long(self) -> None:
        gap = self.long_gap
        _check(len(gap) == 2 and 2 <= gap[0] < gap[1], "long_gap", gap, "two numbers of events, the least first")
        _check(self.mean_length >= gap[1] + 50, "mean_length", self.mean_length, f"at least {gap[1] + 50}")
        _check(self.repeats, "repeats", self.repeats, "True where long intents are planted")
        _check(not self.routine, "routine", self.routine, "0 where long intents are planted")
        _check(self.overlap == 1, "overlap", self.overlap, "1 where long intents are planted: they cross domains")
        _check(self.cold == 0, "cold", self.cold, "0 where long intents are planted: they decide the last events")
        _check(self.long_intents >= 2, "long_intents", self.long_intents, "at least 2")
        _check(self.long_items >= 1, "long_items", self.long_items, "at least 1")
        _check(self.long_echoes >= 0, "long_echoes", self.long_echoes, "at least 0")
        low, high = 4 * self.long_echoes, gap[1] - gap[0]
        _check(low <= self.long_soon < high, "long_soon", self.long_soon, f"at least {low}, below {high}")
        needed = -(-self.long_channels // self.domains) * self.long_intents * self.long_items
        _check(self.items >= needed, "items", self.items, f"at least {needed}: a set of its own for every value")

    @property
    def min_length(self) -> int:
        """The fewest events that a user of all domains may have: with long intents, room for two that are decided."""
        cycles = 2 if self.long_channels == 1 else 1
        planted = cycles * (self.long_gap[0] + self.long_soon) + 200 if self.long_channels else 0
        return max(6, 3 * self.domains, planted)

    @property
    def warm_items(self) -> int:
        """Items of a domain that training events may hold."""
        return self.items - self.cold_items

    @property
    def cold_items(self) -> int:
        """Items of a domain that training events never hold."""
        return round(self.cold * self.items)

    @property
    def split(self) -> str:
        """How the events are split: the last event a user and domain, or the last two that a long intent decides."""
        return "given" if self.long_channels else "loo"

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains' names, in order."""
        return (*DOMAIN_NAMES, *(f"domain{g}" for g in range(len(DOMAIN_NAMES), self.domains)))[: self.domains]


def long_history(seed: int = 0) -> SyntheticConfig:
    """A world of long histories in which certain events are decided 300 to 700 events earlier."""
    return SyntheticConfig(
        seed=seed,
        users=800,
        items=400,
        domains=2,
        overlap=1.0,
        themes=6,
        groups=3,
        leaves=2,
        cold=0.0,
        mean_length=1100.0,
        max_length=1600,
        length_spread=0.15,
        repeats=True,
        long_channels=8,
        long_intents=6,
    )


def _check(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError("out of range", column=name, found=found, expected=expected)
