"""The prepared dataset: memory-mapped columns and item tables, the read side."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int8, Int16, Int32, Int64

from mdrec_jax.data import integrity
from mdrec_jax.data.atomic_folder import recover
from mdrec_jax.data.ids import FIRST_ITEM, UNKNOWN_ITEM
from mdrec_jax.data.manifest import MANIFEST, ROLES, Manifest, read_manifest
from mdrec_jax.errors import InputError

if TYPE_CHECKING:
    from mdrec_jax.types import DatasetSpec

COLUMNS = tuple(integrity.COLUMN_TYPES)


def items_file(domain: str) -> str:
    """The name, inside a dataset, of a domain's item table (any name of a domain is a safe file name)."""
    return f"items/{quote(domain, safe=' ,&()+-_')}.parquet"


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. N events stand in S sequences, one behind the other; sequence s is events
    `sequence_offsets[s] : sequence_offsets[s + 1]`, oldest first.

    `role` says what an event is for: 0 training, 1 validation target, 2 test target, 3 context, which is read and never
    predicted (an event type that is no target, an item outside the vocabulary, the inputs of a held-out row).
    Training reads roles 0 and 3 and predicts role 0; a validation query reads 0 and 3 before it, a test query 0, 1, 3.

    Args:
        path: the folder.
        manifest: its manifest.
        sequence_offsets: [S + 1].
        sequence_user: [S], the user that a sequence belongs to (ascending).
        item: [N], 1 = an item outside the vocabulary, real items from 2.
        domain, event: [N], places in `manifest.domains` and `manifest.event_types`.
        time: [N], seconds since the epoch, zeros without times.
        role: [N].
        domain_items: for each domain its items' ids, ascending.
        first_items: how many of the items count (`with_first_items`); None = all.
    """

    path: Path
    manifest: Manifest
    sequence_offsets: Int64[np.ndarray, " S+1"]
    sequence_user: Int32[np.ndarray, " S"]
    item: Int32[np.ndarray, " N"]
    domain: Int16[np.ndarray, " N"]
    event: Int16[np.ndarray, " N"]
    time: Int64[np.ndarray, " N"]
    role: Int8[np.ndarray, " N"]
    domain_items: tuple[Int32[np.ndarray, " I"], ...]
    first_items: int | None = None

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def num_sequences(self) -> int:
        return len(self.sequence_user)

    @property
    def num_users(self) -> int:
        return self.manifest.counts.users

    @property
    def num_items(self) -> int:
        """Ids run from 0 to num_items - 1 (0 padding, 1 unknown)."""
        items = self.manifest.counts.items if self.first_items is None else self.first_items
        return items + FIRST_ITEM

    def with_first_items(self, items: int) -> "Dataset":
        """This dataset, of which the first `items` items count: events of others are of the unknown item, and read
        only. So a dataset that extends another is seen with the eyes of the other."""
        if items == self.manifest.counts.items:
            return self
        known = np.asarray(self.item) < items + FIRST_ITEM
        return dataclasses.replace(
            self,
            item=np.where(known, self.item, np.int32(UNKNOWN_ITEM)),
            role=np.where(known, self.role, np.int8(ROLES.index("context"))),
            domain_items=tuple(ids[ids < items + FIRST_ITEM] for ids in self.domain_items),
            first_items=items,
        )

    @property
    def num_domains(self) -> int:
        return len(self.manifest.domains)

    @cached_property
    def spec(self) -> "DatasetSpec":
        """The facts that shape a model."""
        from mdrec_jax.types import DatasetSpec  # imports jax, which preparing and inspecting do without

        manifest = self.manifest
        return DatasetSpec(
            num_items=self.num_items,
            num_domains=self.num_domains,
            num_events=len(manifest.event_types),
            has_time=manifest.has_time,
            ordered=manifest.ordered,
            week_second=self._week_second(),
            last_time=self._last_time(),
        )

    def _last_time(self) -> int:
        """As in `DatasetSpec`."""
        if not self.manifest.has_time:
            return 0
        origin, trained = self.manifest.time_origin, np.asarray(self.role) == ROLES.index("train")
        return int(np.asarray(self.time).max(where=trained, initial=origin)) - origin

    def _week_second(self) -> int | None:
        """As in `DatasetSpec`; looks at times until two differ in their second of the day."""
        day, blocks = 24 * 3600, range(0, len(self.time), 1 << 16)
        first = self.time[:1] % day
        if not self.manifest.has_time or not any((self.time[i : i + (1 << 16)] % day != first).any() for i in blocks):
            return None
        # The epoch began on a Thursday.
        return (self.manifest.time_origin + 3 * day) % (7 * day)

    def domain_index(self, name: str) -> int:
        """The number of the domain `name`.

        Raises:
            InputError: there is no such domain.
        """
        if name not in self.manifest.domains:
            raise InputError(
                "unknown domain", file=self.path, found=name, expected="one of " + ", ".join(self.manifest.domains)
            )
        return self.manifest.domains.index(name)

    def items(self, domain: int | str) -> pl.DataFrame:
        """A domain's items, by ascending id: id, raw, title, category, attributes."""
        index = self.domain_index(domain) if isinstance(domain, str) else domain
        return pl.read_parquet(self.path / items_file(self.manifest.domains[index]))

    def users(self) -> pl.DataFrame:
        """Row i = user i: raw."""
        return pl.read_parquet(self.path / "users.parquet")

    def lookup_items(self, raw: Sequence[str], domains: Sequence[str]) -> Int32[np.ndarray, " n"]:
        """The ids of raw items, each in its domain; UNKNOWN_ITEM where the catalogue does not have one.

        With items shared across domains an item is found whichever domain has it.

        Raises:
            InputError: a domain that the dataset does not have.
        """
        for name in set(domains):
            self.domain_index(name)
        asked = pl.DataFrame({"raw": raw, "domain": domains}, schema={"raw": pl.String, "domain": pl.String})
        known = pl.concat([self.items(name).select("raw", "id", domain=pl.lit(name)) for name in self.manifest.domains])
        keys = ["raw"] if self.manifest.items_across == "shared" else ["raw", "domain"]
        found = asked.join(known.unique(keys).select(*keys, "id"), on=keys, how="left", maintain_order="left")
        ids = found["id"].fill_null(UNKNOWN_ITEM).to_numpy().astype(np.int32)
        return np.where(ids < self.num_items, ids, np.int32(UNKNOWN_ITEM))

    def lookup_users(self, raw: Sequence[str | None]) -> Int32[np.ndarray, " n"]:
        """The numbers of raw users; -1 where the dataset does not have one."""
        asked = pl.DataFrame({"raw": raw}, schema={"raw": pl.String})
        # the table of users streams by: only those who are asked for are ever in memory
        table = pl.scan_parquet(self.path / "users.parquet", glob=False).select("raw").with_row_index("id")
        known = table.join(asked.lazy().unique(), on="raw", how="semi").collect(engine="streaming")
        found = asked.join(known, on="raw", how="left", maintain_order="left")
        return found["id"].cast(pl.Int64).fill_null(-1).to_numpy().astype(np.int32)

    def feature(self, name: str) -> tuple[Float[np.ndarray, "V F"], Bool[np.ndarray, " V"]]:
        """The rows of a feature by item id (memory-mapped), and which items have one (rows without are zeros)."""
        rows = np.load(self.path / "features" / f"{name}.npy", mmap_mode="r")
        present = np.load(self.path / "features" / f"{name}.present")
        return rows, present

    def candidates(self, name: str) -> pl.DataFrame:
        """Fixed candidates: sequence Int64, domain String, negatives List[Int32] (ids)."""
        frame = pl.read_parquet(self.path / "candidates" / f"{name}.parquet")
        return frame.with_columns(pl.col("negatives").list.filter(pl.element() < self.num_items))


def open_dataset(path: str | Path, *, verify: bool = False) -> Dataset:
    """Opens a prepared dataset; its files are hashed first (of one above 2 GiB the ends of its files, unless `verify`:
    there the values' range and order are checked instead).

    Raises:
        InputError: not a prepared dataset, another schema version, a file that is missing or was changed.
    """
    folder = Path(path)
    recover(folder)
    manifest = read_manifest(folder)
    needed = [f"columns/{name}.npy" for name in COLUMNS] + [items_file(name) for name in manifest.domains]
    for name in [*needed, "users.parquet"]:
        if name not in manifest.files:
            raise InputError("damaged manifest", file=folder / MANIFEST, column="files", expected=f"an entry {name}")
    quick = integrity.is_large(manifest) and not verify
    integrity.check_files(folder, manifest, whole=not quick)
    columns = {name: integrity.read_column(folder, name) for name in COLUMNS}
    integrity.check_lengths(folder, columns)
    if quick:
        integrity.check_values(folder, manifest, columns)
    domain_items = tuple(
        pl.read_parquet(folder / items_file(name), columns=["id"])["id"].to_numpy() for name in manifest.domains
    )
    return Dataset(path=folder, manifest=manifest, domain_items=domain_items, **columns)


def category_numbers(dataset: Dataset, levels: int) -> Int32[np.ndarray, "V L"]:
    """A number for each item's category at each of the first levels of its path, 0 where the path ends before.

    A category is its whole path from the root, so two items with the same number at a level share all levels above.
    Equal paths are one category in every domain. An item of several domains has the path of the first that knows one.

    Raises:
        InputError: no item has a path.
    """
    frames = [dataset.items(domain).select("id", "category") for domain in dataset.manifest.domains]
    known = pl.concat(frames).filter(pl.col("category").list.len() > 0).unique("id", keep="first", maintain_order=True)
    if not len(known):
        raise InputError(
            "the items have no categories",
            file=dataset.path,
            column="category",
            expected="a data set whose source has a category path for its items",
        )
    numbers = np.zeros((dataset.num_items, levels), np.int32)
    for level in range(levels):
        deep = known.filter(pl.col("category").list.len() > level)
        path = deep["category"].list.head(level + 1).list.join("\x1f")
        numbers[deep["id"].to_numpy(), level] = path.rank("dense").to_numpy()
    return numbers
