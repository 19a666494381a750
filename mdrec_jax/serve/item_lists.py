"""Lists of items that may, or may not, be recommended: to all users, or to each user their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import UNKNOWN_ITEM
from mdrec_jax.serve.given_files import NO_NAMES, read_names, read_pairs


@dataclass(frozen=True)
class ItemList:
    """What a file lists, as it names it. `users` is None where the items are meant for all."""

    items: list[str]
    users: list[str] | None

    def ids(self, dataset: Dataset, domain: int) -> tuple[Int32[np.ndarray, "n"], int]:
        """(ids of the items in a domain, UNKNOWN_ITEM where the catalogue has none; how many different ones it does
        not have)."""
        ids = dataset.lookup_items(self.items, [dataset.manifest.domains[domain]] * len(self.items))
        unknown = {item for item, number in zip(self.items, ids.tolist(), strict=True) if number == UNKNOWN_ITEM}
        return ids, len(unknown)

    def by_user(self, names: list[str], ids: Int32[np.ndarray, "n"]) -> Csr:
        """Each user's items, ascending; none for users that the file does not name."""
        assert self.users is not None
        place = {name: at for at, name in enumerate(names)}
        number = np.array([place.get(user, -1) for user in self.users], np.int64)
        kept = (number >= 0) & (ids != UNKNOWN_ITEM)
        order = np.argsort(number[kept], kind="stable")
        lengths = np.bincount(number[kept], minlength=len(names))
        return Csr(from_lengths(lengths), ids[kept][order]).unique()

    def not_among(self, names: list[str]) -> int:
        """How many users the file names that are not among these."""
        return len(set(self.users or ()) - set(names))


def read_item_list(path: Path, dataset: Dataset, columns: Mapping[str, str] = NO_NAMES) -> ItemList:
    """The items of a file.

    Args:
        path: a text file with a raw id a line (.txt), or a table with a column `item`; with a column `user` beside it
            each row is about that user alone.
        columns: the names of columns that the caller gives (see `given_files.read_columns`).

    Raises:
        InputError: a file that cannot be read, or a row with only one of the two.
    """
    pairs = read_pairs(path, dataset, columns)
    if pairs is not None:
        return ItemList(pairs["item"].to_list(), pairs["user"].to_list())
    return ItemList(list(dict.fromkeys(read_names(path, "item", dataset, columns))), None)
