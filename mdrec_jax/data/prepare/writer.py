"""Writing a prepared dataset: columns, tables and the manifest, all or nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.data.atomic_folder import recover, replacing_folder
from mdrec_jax.data.dataset import items_file
from mdrec_jax.data.integrity import describe
from mdrec_jax.data.manifest import MANIFEST, StoredFile
from mdrec_jax.errors import InputError


def check_target(out: Path) -> None:
    """Refuses an output folder that holds anything but a prepared dataset.

    Raises:
        InputError: `out` is a file, or a folder with other files in it.
    """
    recover(out)
    if not out.exists():
        return
    expected = "a new or empty folder, or a prepared dataset to replace"
    if not out.is_dir():
        raise InputError("the output is not a folder", file=out, expected=expected)
    present = {file.relative_to(out).as_posix() for file in out.rglob("*") if not file.is_dir()}
    if not present:
        return
    strange = sorted(present - _listed_files(out) - {MANIFEST})
    if strange:
        raise InputError("the output folder holds something else", file=out, found=strange[0], expected=expected)


def _listed_files(folder: Path) -> set[str]:
    """The files that a dataset's manifest names, of any schema version; none where there is no such manifest."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return set(value["files"]) if isinstance(value["schema"], int) else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder to write a dataset to; it becomes `out` when the block ends without an error.

    Raises:
        InputError: the disk is full, the file-size limit is reached, or the folder cannot be written.
    """
    try:
        with replacing_folder(out) as part:
            yield part
    except OSError as error:
        raise InputError(
            "cannot write the dataset", file=out, found=error, expected="room and the right to write", hint=None
        ) from error
    except pl.exceptions.PolarsError as error:  # a Parquet file that could not be written whole
        raise InputError("cannot write the dataset", file=out, found=error, expected="room to write") from error


def write_columns(folder: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes `folder`/columns/<name>.npy."""
    (folder / "columns").mkdir()
    for name, values in columns.items():
        np.save(folder / "columns" / f"{name}.npy", values)


def write_tables(folder: Path, users: pl.DataFrame, domains: tuple[str, ...], items: tuple[pl.DataFrame, ...]) -> None:
    """Writes users.parquet, which only its owner may read, and each domain's items."""
    (folder / "items").mkdir()
    (folder / "users.parquet").touch(mode=0o600)
    users.write_parquet(folder / "users.parquet")
    for name, table in zip(domains, items, strict=True):
        table.write_parquet(folder / items_file(name))


def stored_files(folder: Path) -> dict[str, StoredFile]:
    """Name, hashes and size of every file in `folder`, sorted by name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): describe(file) for file in files}
