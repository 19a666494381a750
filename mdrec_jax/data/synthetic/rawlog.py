"""A planted world as a source: events, titles, taxonomy and feature vectors, as any other log would bring them."""

import numpy as np
import polars as pl

from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.data.synthetic.config import SyntheticConfig
from mdrec_jax.data.synthetic.events import Events
from mdrec_jax.data.synthetic.factors import Factors

EVENT_TYPES = ("view", "buy")
_SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pa", "ru", "sa", "te", "va", "wo", "xi", "zu")


def user_names(config: SyntheticConfig) -> list[str]:
    """Raw ids of the users."""
    return [f"user{u:06d}" for u in range(config.users)]


def item_names(factors: Factors) -> list[str]:
    """Raw ids of the items: they say nothing of the factors."""
    return [f"item{i:07d}" for i in range(len(factors.item_home))]


def make_raw_log(config: SyntheticConfig, factors: Factors, events: Events) -> RawLog:
    """The world as a log. Raw ids are those of `user_names` and `item_names`; a user's times strictly increase."""
    users, items = np.array(user_names(config)), np.array(item_names(factors))
    columns = {
        "user": users[events.user],
        "item": items[events.item],
        "domain": np.array(config.domain_names)[events.domain],
        "event": np.array(EVENT_TYPES)[events.buy.astype(int)],
        "time": events.time.astype(np.int64),
        "order": np.arange(len(events.item), dtype=np.int64),
    }
    if config.split == "given":
        columns["role"] = events.role.astype(np.int8)
    return RawLog(
        events=pl.DataFrame(columns).lazy(),
        has_time=True,
        ordered=True,
        files=(),
        items={name: _metadata(config, factors, items, g) for g, name in enumerate(config.domain_names)},
        features=_features(config, factors, items.tolist()),
        items_across="shared",
        default_split=config.split,
        domains=config.domain_names,
        event_types=EVENT_TYPES,
        keep_items=True,
    )


def _metadata(config: SyntheticConfig, factors: Factors, names: np.ndarray, domain: int) -> pl.DataFrame:
    """Titles and category paths of a domain's items: theme (of all domains), group, leaf (of the domain)."""
    ids = factors.domain_items[domain]
    themes, groups, leaves = factors.item_theme[ids], factors.item_group[ids], factors.item_leaf[ids]
    home = factors.item_home[ids]
    paths = [
        [word(0, t), word(1 + h, g), word(1 + h, config.groups + g * config.leaves + leaf)]
        for t, h, g, leaf in zip(themes, home, groups, leaves, strict=True)
    ]
    return pl.DataFrame(
        {
            "item": names[ids],
            "title": [" ".join([*path, str(i)]).title() for path, i in zip(paths, ids, strict=True)],
            "category": paths,
            "attributes": [[f"brand {word(99, (t * 7 + g) % 20)}"] for t, g in zip(themes, groups, strict=True)],
        }
    )


def word(language: int, number: int) -> str:
    """A made-up word of a language; its words for different numbers differ."""
    base = len(_SYLLABLES)
    digits = [(number + 5 * language) % base, (number // base + 3 * language) % base, (number * 3 + language) % base]
    rest = number // base**2
    while rest:
        digits.append(rest % base)
        rest //= base
    return "".join(_SYLLABLES[d] for d in digits)


def _features(config: SyntheticConfig, factors: Factors, names: list[str]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Text and image vectors: a mixing matrix for the shared factors, one a domain for the specific ones, noise."""
    rng = np.random.default_rng([config.seed, 6])
    out = {}
    for name, width in (("text", config.text_width), ("image", config.image_width)):
        if not width:
            continue
        scale = (config.shared_factors + config.specific_factors) ** -0.5
        shared = rng.standard_normal((config.shared_factors, width)) * scale
        specific = rng.standard_normal((config.domains, config.specific_factors, width)) * scale
        rows = factors.item_shared @ shared
        rows += np.einsum("ij,ijf->if", factors.item_specific, specific[factors.item_home])
        rows += config.feature_noise * rng.standard_normal(rows.shape)
        missing = config.image_missing if name == "image" else 0.0
        present = np.flatnonzero(rng.random(len(names)) >= missing)
        out[name] = ([names[i] for i in present], rows[present].astype(np.float32))
    return out
