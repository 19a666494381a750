"""Whether the files of a prepared dataset are those that its manifest describes."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.data.manifest import HINT, MANIFEST, ROLES, Manifest, StoredFile
from mdrec_jax.errors import InputError

QUICK_ABOVE = 2 << 30
"""Bytes of a dataset up to which every file is hashed when it is opened (about a second)."""
END = 1 << 20
"""Bytes at each end of a file that are hashed in a larger one."""
COLUMN_TYPES = {
    "sequence_offsets": np.int64,
    "sequence_user": np.int32,
    "item": np.int32,
    "domain": np.int16,
    "event": np.int16,
    "time": np.int64,
    "role": np.int8,
}
"""The columns of a dataset and their types."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ends_hash(path: Path) -> str:
    """SHA-256 of the first and the last MiB of a file."""
    with path.open("rb") as file:
        first = file.read(END)
        file.seek(max(0, path.stat().st_size - END))
        return hashlib.sha256(first + file.read(END)).hexdigest()


def describe(path: Path) -> StoredFile:
    """What the manifest says of a file."""
    return StoredFile(sha256=file_hash(path), bytes=path.stat().st_size, ends=ends_hash(path))


def check_files(folder: Path, manifest: Manifest, *, whole: bool) -> None:
    """Checks places, sizes and hashes of a dataset's files: whole, or the first and last MiB of each.

    Raises:
        InputError: a file outside the folder, missing, or changed.
    """
    for name, stored in manifest.files.items():
        file = _inside(folder, name)
        if not file.is_file():
            raise InputError("a file of the dataset is missing", file=file, expected=f"{stored.bytes} bytes", hint=HINT)
        size = file.stat().st_size
        if size != stored.bytes:
            raise _changed(file, f"{size} bytes", f"{stored.bytes} bytes")
        found, expected = (file_hash(file), stored.sha256) if whole else (ends_hash(file), stored.ends)
        if found != expected:
            raise _changed(file, f"SHA-256 {found}", f"SHA-256 {expected}")


def is_large(manifest: Manifest) -> bool:
    """Whether opening hashes the ends of the files and looks at their values, instead of hashing all of them."""
    return sum(stored.bytes for stored in manifest.files.values()) > QUICK_ABOVE


def _inside(folder: Path, name: str) -> Path:
    """The file of that name. Raises InputError for one that is not in the folder."""
    path = PurePosixPath(name)
    plain = bool(name) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
    if not plain or not (folder / name).resolve().is_relative_to(folder.resolve()):
        expected = "a relative name of a file in the folder"
        raise InputError("damaged manifest", file=folder / MANIFEST, column="files", found=name, expected=expected)
    return folder / name


def read_column(folder: Path, name: str) -> Any:
    """A column, memory-mapped. Raises InputError for a file that is no array of the column's type."""
    file = folder / "columns" / f"{name}.npy"
    try:
        column = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _changed(file, error, "an array") from None
    expected = np.dtype(COLUMN_TYPES[name])
    if column.ndim != 1 or column.dtype != expected:
        raise _changed(file, f"{column.dtype}, {column.ndim} dimensions", f"{expected}, 1 dimension")
    return column


def check_lengths(folder: Path, columns: dict[str, Any]) -> None:
    """Columns that belong together have one length. Raises InputError."""
    events, sequences = len(columns["item"]), len(columns["sequence_user"])
    lengths = dict.fromkeys(("domain", "event", "time", "role"), events) | {"sequence_offsets": sequences + 1}
    for name, expected in lengths.items():
        if len(columns[name]) != expected:
            raise _changed(folder / "columns" / f"{name}.npy", f"{len(columns[name])} values", f"{expected}")
    offsets = columns["sequence_offsets"]
    if offsets[0] != 0 or offsets[-1] != events:
        found = f"{offsets[0]} to {offsets[-1]}"
        raise _changed(folder / "columns" / "sequence_offsets.npy", found, f"0 to {events}")


def check_values(folder: Path, manifest: Manifest, columns: dict[str, Any]) -> None:
    """Range and order of the columns' values, where the files are not hashed as a whole. Raises InputError."""
    counts, longest = manifest.counts, np.iinfo(np.int64).max
    ranges = {
        "sequence_user": (0, counts.users - 1),
        "item": (UNKNOWN_ITEM, counts.items + UNKNOWN_ITEM),
        "domain": (0, len(manifest.domains) - 1),
        "event": (0, len(manifest.event_types) - 1),
        "time": (manifest.time_origin, longest if manifest.has_time else 0),
        "role": (0, len(ROLES) - 1),
    }
    for name, (least, most) in ranges.items():
        column = columns[name]
        if len(column) and not least <= (low := int(column.min())) <= (high := int(column.max())) <= most:
            raise _changed(folder / "columns" / f"{name}.npy", f"{low} to {high}", f"{least} to {most}")
    for name in ("sequence_offsets", "sequence_user"):
        fall = np.flatnonzero(columns[name][1:] < columns[name][:-1])
        if len(fall):
            row = int(fall[0])
            found = f"{columns[name][row]}, {columns[name][row + 1]} at {row}"
            raise _changed(folder / "columns" / f"{name}.npy", found, "ascending values")


def _changed(file: Path, found: object, expected: str) -> InputError:
    return InputError("a file of the dataset was changed", file=file, found=found, expected=expected, hint=HINT)
