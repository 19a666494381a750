"""Some of a log's domains by themselves, with the targets that they have beside the others.

The split is decided on the whole log, and the other domains' events are taken out behind it: a model of one domain
and a model of all of them are asked for the same items of the same users.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
from jaxtyping import Int8

from mdrec_jax.data.prepare.ingest import Events, Vocabulary
from mdrec_jax.data.sources.rawlog import RawLog
from mdrec_jax.errors import InputError

RESERVED = ("all", "macro")
"""What results and journals call all questions, and the mean over domains."""
MAX_QUOTED = 200
"""A domain's items lie in a file of its name."""


def check_names(names: Sequence[str], file: Path | None) -> None:
    """Refuses domains whose names mean something else in results, journals or file names, or that look alike.

    Raises:
        InputError: the first such name.
    """
    seen: dict[str, str] = {}
    for name in names:
        alike = unicodedata.normalize("NFKC", name).casefold()
        problem, expected = None, None
        if not name.strip() or name != name.strip():
            problem, expected = "a domain's name that is empty or has spaces around it", "a name without them"
        elif alike in RESERVED:
            problem, expected = "a domain with a name that results use", "another name than " + ", ".join(RESERVED)
        elif "/" in name or not name.isprintable():
            problem, expected = "a domain's name with / or characters that are not printed", "a name without them"
        elif len(quote(name)) > MAX_QUOTED:
            problem, expected = "a domain's name is too long", f"at most {MAX_QUOTED} bytes, written as in a URL"
        elif alike in seen:
            problem, expected = "two domains whose names look alike", f"another name than {seen[alike]}"
        if problem is not None:
            hint = "give the domain another name (in the column of domains, or with --domain NAME=PATH)"
            raise InputError(problem, file=file, column="domain", found=repr(name), expected=expected, hint=hint)
        seen[alike] = name


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
