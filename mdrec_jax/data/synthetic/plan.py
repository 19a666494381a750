"""What is settled before any item is drawn: who acts when, in which domain, in which session, and what is planted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mdrec_jax.data.synthetic.config import SyntheticConfig
from mdrec_jax.data.synthetic.factors import CUE, KEY, Factors, domain_weights, intent_odds

EPOCH = 1_704_067_200
"""Start of the calendar: 2024-01-01 UTC, in seconds."""
DAY = 86_400
TRAIN, VALIDATION, TEST, CONTEXT = 0, 1, 2, 3


@dataclass(frozen=True)
class WorldPlan:
    """User u's event t stands at [u, t]; E is the longest history, and what lies past `length[u]` means nothing."""

    length: Int[np.ndarray, " U"]
    domain: Int[np.ndarray, "U E"]
    session: Int[np.ndarray, "U E"]
    """0, 1, ... within the user."""
    intent: Int[np.ndarray, "U E"]
    noise: Bool[np.ndarray, "U E"]
    final: Bool[np.ndarray, "U E"]
    """The user's last event in its domain, where cold items may appear."""
    time: Int[np.ndarray, "U E"]
    """Seconds since 1970, strictly increasing."""
    planted: Int[np.ndarray, "U E"]
    """An item that this event must be (key or cue), else -1."""
    channel: Int[np.ndarray, "U E"]
    value: Int[np.ndarray, "U E"]
    """The set that this event's item is drawn from (the event is decided by a key), else -1; likewise `channel`."""
    gap: Int[np.ndarray, "U E"]
    """How many events back the key lies that decides this one; 0 = none does."""
    role: Int[np.ndarray, "U E"]
    """0 train, 1 validation, 2 test, 3 context; only where the split is "given"."""


def make_plan(config: SyntheticConfig, factors: Factors) -> WorldPlan:
    """Draws a plan; a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, 3])
    length = _lengths(config, factors, rng)
    domain = _domains(config, factors, length, rng)
    long = _plant(config, factors, length, domain, np.random.default_rng([config.seed, 4]))
    length = long.pop("length")
    inside = np.arange(domain.shape[1]) < length[:, None]
    starts = rng.random(domain.shape) < 1 / config.session_length
    starts[:, 0] = True
    session = starts.cumsum(1) - 1
    free = (long["planted"] < 0) & (long["value"] < 0)
    return WorldPlan(
        length=length,
        session=session,
        intent=np.take_along_axis(_intents(config, factors, int(session.max()) + 1, rng), session, 1),
        noise=(rng.random(domain.shape) < config.noise) & free,
        final=_last_of_each(domain, inside),
        time=_times(config, starts, length, rng),
        domain=domain,
        **long,
    )


def _lengths(config: SyntheticConfig, factors: Factors, rng: np.random.Generator) -> np.ndarray:
    spread = config.length_spread
    drawn = np.exp(rng.normal(np.log(config.mean_length) - spread**2 / 2, spread, config.users))
    least = config.min_length if config.long_channels else np.maximum(6, 3 * factors.user_domains.sum(1))
    return np.clip(np.rint(drawn).astype(np.int64), least, config.max_length)


def _domains(config: SyntheticConfig, factors: Factors, length: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Markov chain over the user's domains, then changed at random places until each has three events."""
    width = int(length.max())
    log_weight = np.log(domain_weights(config))
    active = np.where(factors.user_domains, log_weight, -np.inf)
    domain = np.zeros((config.users, width), np.int64)
    users = np.arange(config.users)
    for t in range(width):
        drawn = active + rng.gumbel(size=active.shape)
        if t == 0:
            domain[:, 0] = drawn.argmax(1)
            continue
        drawn[users, domain[:, t - 1]] = -np.inf
        moves = (rng.random(config.users) >= config.stay) & (factors.user_domains.sum(1) > 1)
        domain[:, t] = np.where(moves, drawn.argmax(1), domain[:, t - 1])
    for u in users:
        _fill(domain[u, : length[u]], np.flatnonzero(factors.user_domains[u]), rng)
    return domain


def _fill(row: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> None:
    """Gives each wanted domain at least three events of the row, taken from the most frequent ones, in place."""
    counts = np.bincount(row, minlength=int(wanted.max()) + 1)
    for g in wanted:
        while counts[g] < 3:
            rich = int(counts.argmax())
            row[rng.choice(np.flatnonzero(row == rich))] = g
            counts[rich] -= 1
            counts[g] += 1


def _intents(config: SyntheticConfig, factors: Factors, sessions: int, rng: np.random.Generator) -> np.ndarray:
    """[U, sessions]: a Markov chain that leans towards intents that fit the user."""
    users = np.arange(config.users)
    out = np.zeros((config.users, sessions), np.int64)
    last = np.full(config.users, -1)
    for s in range(sessions):
        odds = intent_odds(factors, config, users, last).cumsum(1)
        last = (odds < rng.random((config.users, 1)) * odds[:, -1:]).sum(1)
        out[:, s] = last
    return out


def _last_of_each(domain: np.ndarray, inside: np.ndarray) -> np.ndarray:
    final = np.zeros(domain.shape, bool)
    for g in range(int(domain.max()) + 1):
        here = (domain == g) & inside
        users = np.flatnonzero(here.any(1))
        final[users, domain.shape[1] - 1 - here[users, ::-1].argmax(1)] = True
    return final


def _times(config: SyntheticConfig, starts: np.ndarray, length: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seconds to minutes within a session, hours to weeks between sessions, all within the calendar."""
    users, width = starts.shape
    within = 20 + rng.exponential(120, (users, width)).astype(np.int64)
    between = np.where(starts, rng.exponential(1.0, (users, width)), 0.0).cumsum(1)
    joined = rng.random(users) * 0.5
    span = rng.uniform(0.6, 1.0, users) * (1 - joined)
    last = between[np.arange(users), length - 1]
    position = joined[:, None] + (between - between[:, :1]) * (span / np.maximum(last - between[:, 0], 1e-9))[:, None]
    return EPOCH + (position * config.days * DAY).astype(np.int64) + within.cumsum(1)


def _plant(
    config: SyntheticConfig, factors: Factors, length: np.ndarray, domain: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Writes keys, cues and decided events into the plan (and their domains into `domain`, in place).

    A user's history is cut behind its last decided event, which is its test target; the one before is its validation
    target, and what lies between is read but not trained on.
    """
    shape = domain.shape
    out = {name: np.full(shape, -1) for name in ("planted", "channel", "value")}
    gap, role, length = np.zeros(shape, np.int64), np.zeros(shape, np.int8), length.copy()
    if config.long_channels:
        lookup = _long_items(config, factors)
        for u in range(config.users):
            places: list[tuple[int, int, list[int]]] = []
            while len(places) < 2:  # a history of least length has room for two, but not for every draw
                places = _places(config, int(length[u]), rng)
            for c, key, decided in places:
                value = int(rng.integers(config.long_intents))
                domain[u, key], out["planted"][u, key] = c % config.domains, lookup[c, value]
                for event in decided:
                    domain[u, [event - 1, event]] = (c + 1) % config.domains
                    out["planted"][u, event - 1] = lookup[c, -1]
                    out["channel"][u, event], out["value"][u, event] = c, value
                    gap[u, event] = event - key
            validation, test = sorted(decided[-1] for _, _, decided in places)[-2:]
            length[u] = test + 1
            role[u, validation], role[u, validation + 1 : test], role[u, test] = VALIDATION, CONTEXT, TEST
    return {**out, "gap": gap, "role": role, "length": length}


def _long_items(config: SyntheticConfig, factors: Factors) -> np.ndarray:
    """[C, L + 1]: the key item of each value, and last the cue item."""
    lookup = np.zeros((config.long_channels, config.long_intents + 1), np.int64)
    for kind in (KEY, CUE):
        items = np.flatnonzero(factors.item_kind == kind)
        lookup[factors.item_channel[items], factors.item_value[items]] = items
    return lookup


def _places(config: SyntheticConfig, length: int, rng: np.random.Generator) -> list[tuple[int, int, list[int]]]:
    """(channel, key, decided) places of one user: a channel's next key comes after the last event its key decided.

    The event before one that is decided is the cue. No two of these events stand at the same place.
    """
    least, most = config.long_gap
    taken = np.zeros(length, bool)
    places = []
    # The earliest start first: every channel gets its turn.
    clock = [(int(rng.integers(0, 40)), c) for c in rng.permutation(config.long_channels)]
    while clock:
        start, c = clock.pop(0)
        key = _free(taken, start, 1)
        if key < 0:
            continue
        held = taken.copy()
        held[key] = True
        soon = config.long_soon ** rng.random(config.long_echoes)  # near and far alike: as many within 4 as within 16
        decided = [_hold(held, key + int(after)) for after in soon]
        told, last = max([key, *decided]), min(key + most, length - 1)
        if min([key, *decided]) < 0 or told + least > last:
            continue
        decided = [*sorted(decided), _hold(held, int(rng.integers(told + least, last + 1)) - 1)]
        if not told + least <= decided[-1] <= key + most:
            continue
        taken = held
        places.append((int(c), key, decided))
        clock.append((decided[-1] + 1 + int(rng.integers(0, 40)), c))
        clock.sort()
    return places


def _hold(taken: np.ndarray, start: int) -> int:
    """Takes the first two places in a row that are free from `start` on; the second of them, -1 = none."""
    place = _free(taken, start, 2)
    if place < 0:
        return -1
    taken[place : place + 2] = True
    return place + 1


def _free(taken: np.ndarray, start: int, width: int) -> int:
    """The first place from `start` on where `width` events in a row are free; -1 = none."""
    for place in range(start, len(taken) - width + 1):
        if not taken[place : place + width].any():
            return place
    return -1
