"""Noise put into training events on purpose, to see how much of it a model stands.

A share of the training events gets an item drawn uniformly from its own domain. Which events those are and what they
become is a function of the event's place alone: the same in every epoch, and what a smaller share
replaces, a larger one replaces by the same items. Validation and test targets, and the histories that they are asked
with, stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int32

from mdrec_jax.data.batching.streams import EventStream
from mdrec_jax.data.ids import FIRST_ITEM
from mdrec_jax.errors import ConfigError

SEED = 0
"""It does not depend on the run's seed: runs of several seeds see one noisy data set."""


@dataclass(frozen=True)
class NoiseConfig:
    """
    Args:
        share: of the training events whose item is replaced; 0 leaves the data as they are.
        what: `events`: what is read and what is predicted, as in a noisy log; `inputs`: only what is read.
    """

    share: float = 0.0
    what: Literal["events", "inputs"] = "events"

    def __post_init__(self) -> None:
        checks = {
            "share": (0 <= self.share <= 1, "a share, 0 to 1"),
            "what": (self.what in ("events", "inputs"), "events or inputs"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ConfigError(
                    "value out of range", column=f"batching.noise.{name}", found=getattr(self, name), expected=expected
                )


def noisy_stream(
    stream: EventStream, domain_items: Sequence[Int32[np.ndarray, " I"]], config: NoiseConfig
) -> EventStream:
    """The stream with the noise in it; the very same one where the share is 0.

    Args:
        stream: of training (`streams.train_stream`): its events are those that are replaced.
        domain_items: the items of each domain.
    """
    if not config.share:
        return stream
    item, domain = np.asarray(stream.item).copy(), np.asarray(stream.domain)
    which, what = (np.random.default_rng((SEED, purpose)).random(len(item)) for purpose in (0, 1))
    chosen = (which < config.share) & (item >= FIRST_ITEM)  # an item outside the vocabulary stays
    for number, items in enumerate(domain_items):
        places = np.flatnonzero(chosen & (domain == number))
        item[places] = np.asarray(items)[(what[places] * len(items)).astype(np.int64)]
    if config.what == "inputs":
        return replace(stream, item=item, target=np.asarray(stream.target))
    target = item if not stream.has_context else np.where(np.asarray(stream.target) != 0, item, 0).astype(item.dtype)
    return replace(stream, item=item, target=target)
