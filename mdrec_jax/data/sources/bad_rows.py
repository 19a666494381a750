"""Rows of a table that cannot be used, counted by reason where the user asked to go on without them."""

from collections import Counter
from pathlib import Path


class BadRows:
    """What `--bad-rows skip` left out. A file may be read more than once; only its last reading counts."""

    def __init__(self) -> None:
        self._counts: dict[Path, Counter[str]] = {}

    def restart(self, file: Path) -> None:
        """A reading of `file` begins."""
        self._counts[file] = Counter()

    def add(self, file: Path, reason: str, rows: int = 1) -> None:
        """`rows` rows of `file` are left out."""
        self._counts.setdefault(file, Counter())[reason] += rows

    def by_reason(self, of: str = "") -> dict[str, int]:
        """Rows left out, in all files; `of` says in the reasons which rows: "of the item table"."""
        total = sum(self._counts.values(), Counter[str]())
        return {reason.replace("rows", f"rows {of}".strip(), 1): count for reason, count in sorted(total.items())}
