"""Some of a log's domains by themselves, with the targets that they have beside the others.

The split is decided on the whole log, and the other domains' events are taken out behind it: a model of one domain
and a model of all of them are asked for the same items of the same users.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from jaxtyping import Int8

from mdrec_jax.data.ingest import Events, Vocabulary
from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError


def check_only(wanted: Sequence[str], domains: tuple[str, ...]) -> None:
    """
    Raises:
        InputError: a domain that is not there.
    """
    for name in wanted:
        if name not in domains:
            raise InputError(
                "unknown domain", column="--only-domains", found=name, expected="one of " + ", ".join(domains)
            )


def only_events(
    events: Events, role: Int8[np.ndarray, " N"], vocabulary: Vocabulary, wanted: Sequence[str]
) -> tuple[Events, Int8[np.ndarray, " N"], Vocabulary]:
    """The events of the wanted domains, their roles, and the vocabulary with those domains alone, in its order."""
    kept = [number for number, name in enumerate(vocabulary.domains) if name in wanted]
    number = np.full(len(vocabulary.domains), -1, np.int16)
    number[kept] = np.arange(len(kept))
    mask = number[events.domain] >= 0
    events = events.take(mask)
    names = tuple(vocabulary.domains[place] for place in kept)
    return replace(events, domain=number[events.domain]), role[mask], replace(vocabulary, domains=names)


def only_metadata(log: RawLog, wanted: Sequence[str]) -> RawLog:
    """The log without items and candidates of other domains; features of their items are counted as without one."""
    return replace(
        log,
        items={name: frame for name, frame in log.items.items() if name in wanted},
        candidates={name: frame.filter(pl.col("domain").is_in(list(wanted))) for name, frame in log.candidates.items()},
    )
