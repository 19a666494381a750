"""What a prepared dataset says about itself: `manifest.json`, typed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdrec_jax.codec import from_plain
from mdrec_jax.errors import ConfigError, InputError

SCHEMA = 2
"""The version of the layout; a reader refuses any other."""
MANIFEST = "manifest.json"
HINT = "restore the folder or prepare it again"
ROLES = ("train", "validation", "test", "context")
"""The meaning of `role` 0 .. 3: the first three are predicted in their split, context is only ever read."""


@dataclass(frozen=True)
class SourceFile:
    """A file that the dataset was made from: its name without folders, its SHA-256 and its size."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class StoredFile:
    """A file of the dataset itself; `ends` is the SHA-256 of its first and last MiB."""

    sha256: str
    bytes: int
    ends: str


@dataclass(frozen=True)
class DomainCounts:
    users: int
    items: int
    events: int


@dataclass(frozen=True)
class Counts:
    """How much there is: in all, by domain, by role; and what was left out, in events (or as the reason says)."""

    users: int
    sequences: int
    events: int
    items: int
    domains: dict[str, DomainCounts]
    roles: dict[str, int]
    dropped: dict[str, int]


@dataclass(frozen=True)
class Parent:
    """A data set that was extended: its hash, and how many items it has. Those have the same ids in its descendants."""

    hash: str
    items: int


@dataclass(frozen=True)
class Manifest:
    """The facts of a prepared dataset.

    Args:
        schema: SCHEMA of the program that wrote it.
        source: the name of the source.
        created_by: program and version.
        sources: the files it was made from.
        files: relative name -> the dataset's files.
        domains, event_types: names; their places are the numbers in the columns.
        counts: see Counts.
        split: {"rule": ...} and the rule's own values.
        filters: the filters that were set, by name.
        tie: how events of equal time were ordered: seeded, id or file.
        seed: of the permutation of ids and of the seeded ties.
        items_across: whether equal raw ids in two domains are one item ("shared") or two ("separate").
        has_time, ordered: whether the source knew times, an order.
        time_origin: seconds since the epoch of the first event (0 without times).
        parents: the datasets that this one extends, the oldest first.
        hash: SHA-256 over the names and hashes of `files`, sorted.
        columns: what (user, item, ...) -> the name of its column, where `prepare` was told one.
    """

    schema: int
    source: str
    created_by: str
    sources: tuple[SourceFile, ...]
    files: dict[str, StoredFile]
    domains: tuple[str, ...]
    event_types: tuple[str, ...]
    counts: Counts
    split: dict[str, Any]
    filters: dict[str, Any]
    tie: str
    seed: int
    items_across: str
    has_time: bool
    ordered: bool
    time_origin: int
    parents: tuple[Parent, ...]
    hash: str
    columns: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes `folder`/manifest.json, with a hash of itself as `seal`."""
        value = json.loads(json.dumps(asdict(self)))
        (folder / MANIFEST).write_text(_text({**value, "seal": _seal(value)}), encoding="utf-8")

    def items_of(self, other: str) -> int | None:
        """How many items the dataset with the hash `other` has, where its ids mean the same in this one."""
        known = {parent.hash: parent.items for parent in self.parents} | {self.hash: self.counts.items}
        return known.get(other)


def combined_hash(files: Mapping[str, StoredFile]) -> str:
    """The hash of a dataset from the hashes of its files."""
    lines = "".join(f"{name}\t{files[name].sha256}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Reads `folder`/manifest.json.

    Raises:
        InputError: no such file, another schema version, or a manifest that was changed.
    """
    path = folder / MANIFEST
    expected = "a folder made by `mdrec prepare` or `mdrec synthetic`"
    if not folder.is_dir():
        raise InputError("is not a folder" if folder.exists() else "no such folder", file=folder, expected=expected)
    if not path.is_file():
        raise InputError("is not a prepared dataset", file=folder, found=f"no {MANIFEST}", expected=expected)
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except ValueError as error:  # covers bytes that are not UTF-8
        raise InputError("damaged manifest", file=path, found=error, expected=expected) from None
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError("is not the manifest of a dataset", file=path, expected=expected)
    if value["schema"] != SCHEMA:
        raise InputError(
            "dataset of another schema version",
            file=path,
            column="schema",
            found=value["schema"],
            expected=str(SCHEMA),
            hint="prepare it again with this version of mdrec",
        )
    as_written = text == _text(value)
    seal = value.pop("seal", None)
    if not as_written or seal != _seal(value):
        raise InputError("changed manifest", file=path, column="seal", found=seal, expected=_seal(value), hint=HINT)
    try:
        manifest = from_plain(Manifest, value)
    except ConfigError as error:
        raise InputError(
            "damaged manifest", file=path, column=error.column, found=error.found, expected=error.expected, hint=HINT
        ) from None
    if manifest.hash != combined_hash(manifest.files):
        raise InputError("changed manifest", file=path, column="hash", found=manifest.hash, expected="the files' hash")
    return manifest


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _seal(value: dict[str, Any]) -> str:
    """A hash of everything that a manifest says."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
