"""The items' places in the tree of categories, as numbers."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Int32

from mdrec_jax.errors import InputError

if TYPE_CHECKING:
    from mdrec_jax.data.dataset import Dataset


def category_numbers(dataset: "Dataset", levels: int) -> Int32[np.ndarray, "V L"]:
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
