"""The latent factors of a planted world, and the distribution of a next event that follows from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from mdrec_jax.data.synthetic.config import SyntheticConfig

ORDINARY, KEY, CUE = 0, 1, 2
"""Kinds of items: drawn by the factors; plants a long intent; announces an event that a long intent decides."""


@dataclass(frozen=True)
class Factors:
    """Everything that decides which event comes next. K shared and J specific factors, Z intents, G domains.

    Items are numbered as the arrays' rows say: 0 .. I-1 while a world is made, internal ids once it is prepared (rows
    0 and 1 are then empty). Positions in `domain_items` and `long_sets` are such numbers too.
    """

    user_shared: Float64[np.ndarray, "U K"]
    user_specific: Float64[np.ndarray, "U G J"]
    user_domains: Bool[np.ndarray, "U G"]
    item_shared: Float64[np.ndarray, "I K"]
    item_specific: Float64[np.ndarray, "I J"]
    item_bias: Float64[np.ndarray, " I"]
    """Log popularity of an ordinary item."""
    item_theme: Int[np.ndarray, " I"]
    item_group: Int[np.ndarray, " I"]
    item_leaf: Int[np.ndarray, " I"]
    item_home: Int[np.ndarray, " I"]
    """The domain whose specific tree the item hangs in (of an item of several domains: the first)."""
    item_cold: Bool[np.ndarray, " I"]
    item_kind: Int[np.ndarray, " I"]
    item_channel: Int[np.ndarray, " I"]
    """Channel of a key or cue item, else -1."""
    item_value: Int[np.ndarray, " I"]
    """The value that a key item plants, else -1."""
    intent_shared: Float64[np.ndarray, "Z K"]
    intent_specific: Float64[np.ndarray, "G Z J"]
    intent_transition: Float64[np.ndarray, "Z Z"]
    """Log odds that a session of one intent is followed by one of another."""
    shared_rotation: Float64[np.ndarray, "K K"]
    """Turns the shared factors of the previous item into what it calls for."""
    specific_rotation: Float64[np.ndarray, "G J J"]
    domain_items: tuple[Int[np.ndarray, " _"], ...]
    """All items of each domain, ascending."""
    long_sets: Int[np.ndarray, "C L S"]
    """The items that value l of channel c leads to."""


def make_factors(config: SyntheticConfig) -> Factors:
    """Draws a world's factors; a pure function of `config`."""
    rng = np.random.default_rng([config.seed, 1])
    domains, shared, specific = config.domains, config.shared_factors, config.specific_factors
    items = _make_items(config, np.random.default_rng([config.seed, 2]))
    overlapping = np.zeros(config.users, bool)
    overlapping[: round(config.overlap * config.users)] = True
    overlapping = rng.permutation(overlapping)
    own = rng.choice(domains, config.users, p=domain_weights(config))
    return Factors(
        user_shared=rng.standard_normal((config.users, shared)),
        user_specific=rng.standard_normal((config.users, domains, specific)),
        user_domains=overlapping[:, None] | (own[:, None] == np.arange(domains)),
        intent_shared=rng.standard_normal((config.intents, shared)),
        intent_specific=rng.standard_normal((domains, config.intents, specific)),
        intent_transition=2.0 * rng.standard_normal((config.intents, config.intents)),
        shared_rotation=_rotation(rng, shared),
        specific_rotation=np.stack([_rotation(rng, specific) for _ in range(domains)]),
        **items,
    )


def domain_weights(config: SyntheticConfig) -> Float64[np.ndarray, " G"]:
    """Each domain's share of users and of changes between domains."""
    weight = (1.0 + np.arange(config.domains)) ** -config.domain_skew
    return weight / weight.sum()


def _make_items(config: SyntheticConfig, rng: np.random.Generator) -> dict[str, Any]:
    """The item side of `Factors`. A theme's centre is shared by all domains; groups and leaves are a domain's own and
    crossed with the themes, so that shared and specific factors are independent of each other."""
    common = round(config.item_overlap * config.items)
    home = np.concatenate([np.zeros(common, int), np.repeat(np.arange(config.domains), config.items - common)])
    count = len(home)
    theme = rng.integers(config.themes, size=count)
    group = rng.integers(config.groups, size=count)
    leaf = rng.integers(config.leaves, size=count)
    width, specific = config.shared_factors, config.specific_factors
    themes = rng.standard_normal((config.themes, width))
    groups = rng.standard_normal((config.domains, config.groups, specific))
    leaves = groups[:, :, None] + 0.6 * rng.standard_normal((config.domains, config.groups, config.leaves, specific))
    raw_shared = themes[theme] + config.spread * rng.standard_normal((count, width))
    raw_specific = leaves[home, group, leaf] + config.spread * rng.standard_normal((count, specific))
    bias = config.popularity_skew * rng.standard_normal(count)
    cold = np.zeros(count, bool)
    members = _members(config, common)
    for ids in members:
        own = ids[ids >= common]
        cold[rng.permutation(own)[: config.cold_items]] = True
    ordinary = {
        "item_shared": _whiten(raw_shared, np.zeros(count, int)),
        "item_specific": _whiten(raw_specific, home),
        "item_bias": bias,
        "item_theme": theme,
        "item_group": group,
        "item_leaf": leaf,
        "item_home": home,
        "item_cold": cold,
    }
    return _add_long_items(config, rng, ordinary, members)


def _members(config: SyntheticConfig, common: int) -> list[np.ndarray]:
    own = config.items - common
    return [np.concatenate([np.arange(common), common + g * own + np.arange(own)]) for g in range(config.domains)]


def _add_long_items(
    config: SyntheticConfig, rng: np.random.Generator, ordinary: dict[str, np.ndarray], members: list[np.ndarray]
) -> dict[str, Any]:
    """Appends the key and cue items of the long intents and chooses the sets that they lead to."""
    channels, values = config.long_channels, config.long_intents
    count = len(ordinary["item_home"])
    home, kind, channel, value = [], [], [], []
    for c in range(channels):
        home += [c % config.domains] * values + [(c + 1) % config.domains]
        kind += [KEY] * values + [CUE]
        channel += [c] * (values + 1)
        value += [*range(values), -1]
    added = len(home)
    filled = {
        name: np.concatenate([array, np.zeros((added, *array.shape[1:]), array.dtype)])
        for name, array in ordinary.items()
    }
    filled["item_home"][count:] = home
    for name, nodes in (("item_theme", config.themes), ("item_group", config.groups), ("item_leaf", config.leaves)):
        filled[name][count:] = rng.integers(nodes, size=added)
    sets = np.zeros((channels, values, config.long_items), int)
    for g in range(config.domains):
        led = [c for c in range(channels) if (c + 1) % config.domains == g]
        chosen = rng.permutation(members[g])[: len(led) * values * config.long_items]
        sets[led] = chosen.reshape(len(led), values, config.long_items)
    own = [np.flatnonzero(np.array(home, int) == g) + count for g in range(config.domains)]
    return {
        **filled,
        "item_kind": np.concatenate([np.full(count, ORDINARY), np.array(kind, int)]),
        "item_channel": np.concatenate([np.full(count, -1), np.array(channel, int)]),
        "item_value": np.concatenate([np.full(count, -1), np.array(value, int)]),
        "domain_items": tuple(np.concatenate([ids, new]) for ids, new in zip(members, own, strict=True)),
        "long_sets": sets,
    }


def _whiten(raw: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Centres each block of rows and scales its columns to a standard deviation of 1."""
    out = np.empty_like(raw)
    for b in np.unique(block):
        rows = raw[block == b]
        out[block == b] = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-9)
    return out


def _rotation(rng: np.random.Generator, width: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    return q * np.sign(np.diag(r))


def wishes(
    factors: Factors,
    config: SyntheticConfig,
    domain: int,
    user: Int[np.ndarray, " Q"],
    intent: Int[np.ndarray, " Q"],
    previous: Int[np.ndarray, " Q"],
    previous_in_domain: Int[np.ndarray, " Q"],
) -> tuple[Float64[np.ndarray, "Q K"], Float64[np.ndarray, "Q J"]]:
    """What each user looks for in `domain` now: the item factors that its next genuine event has a liking for.

    Args:
        intent: the session's short-term intent.
        previous, previous_in_domain: the latest genuine ordinary item in any domain, and in this one; -1 = none.
    """
    last = factors.item_shared[previous] * (previous >= 0)[:, None]
    last_own = factors.item_specific[previous_in_domain] * (previous_in_domain >= 0)[:, None]
    shared = (
        config.preference * factors.user_shared[user]
        + config.intent_strength * factors.intent_shared[intent]
        + config.transition * last @ factors.shared_rotation
    )
    specific = (
        config.preference * factors.user_specific[user, domain]
        + config.intent_strength * factors.intent_specific[domain, intent]
        + config.transition * last_own @ factors.specific_rotation[domain]
    )
    return shared, specific


def biases(factors: Factors, config: SyntheticConfig, domain: int) -> tuple[np.ndarray, np.ndarray]:
    """Log popularity of the domain's items in ordinary events and in the user's last of the domain; -inf = never."""
    ids = factors.domain_items[domain]
    bias = np.where(factors.item_kind[ids] == ORDINARY, factors.item_bias[ids], -np.inf)
    cold = factors.item_cold[ids]
    return np.where(cold, -np.inf, bias), bias + config.cold_boost * cold


def intent_odds(
    factors: Factors, config: SyntheticConfig, user: Int[np.ndarray, " Q"], intent: Int[np.ndarray, " Q"]
) -> Float64[np.ndarray, "Q Z"]:
    """Probabilities of the next session's intent after a session of `intent` (-1 = the user's first session)."""
    fit = factors.user_shared[user] @ factors.intent_shared.T / np.sqrt(config.shared_factors)
    return softmax(fit + factors.intent_transition[intent] * (intent >= 0)[:, None])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis; a logit of -inf has probability 0."""
    out = np.exp(logits - logits.max(-1, keepdims=True))
    return out / out.sum(-1, keepdims=True)
