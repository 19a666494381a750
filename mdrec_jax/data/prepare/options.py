"""How a log becomes a dataset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from mdrec_jax.data.prepare.filters import Duplicates
from mdrec_jax.data.prepare.ordering import Tie
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError


@dataclass(frozen=True)
class PrepareOptions:
    """What the user asks for; None = what the source says.

    Args:
        min_user, min_item: the k-core: events a user and an item must have, applied until nothing changes.
        max_len: only the latest events of a sequence.
        min_rating: events rated lower are left out.
        target_events: the behaviour types that are predicted; others are only read. Empty = all are predicted.
        only_domains: the domains whose events stay, behind the split; empty = all.
        duplicates: which of the events of one sequence, domain, item and type (exact: and time) stay.
        tie: how events of equal time are ordered.
        items_across: whether equal raw ids in two domains are one item.
        split: see `splits.parse_split`.
        seed: keys the ids and the ties.
        extend: a prepared dataset whose users, items, domains and event types keep their numbers.
        source: what the user says about the files.
    """

    min_user: int | None = None
    min_item: int | None = None
    max_len: int | None = None
    min_rating: float | None = None
    target_events: tuple[str, ...] = ()
    only_domains: tuple[str, ...] = ()
    duplicates: Duplicates = "keep"
    tie: Tie = "seeded"
    items_across: Literal["shared", "separate"] | None = None
    split: str | None = None
    seed: int = 0
    extend: Path | None = None
    source: SourceOptions = field(default_factory=SourceOptions)

    def check(self) -> None:
        """Refuses values out of range.

        Raises:
            InputError: naming the option.
        """
        for name, least in (("min_user", 1), ("min_item", 1), ("max_len", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 1 << 63:
                flag = "--" + name.replace("_", "-")
                raise InputError("option out of range", column=flag, found=value, expected=f"at least {least}")
        if self.only_domains and self.extend is not None:
            raise InputError(
                "a dataset is extended with all its domains", column="--only-domains", found=self.only_domains
            )
        if self.min_rating is not None and not np.isfinite(self.min_rating):
            raise InputError("option out of range", column="--min-rating", found=self.min_rating, expected="a number")
