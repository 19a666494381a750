"""Rows of tables: what a batch touches, looked up outside of the differentiated function."""

from dataclasses import dataclass

import jax
from mdrec_kernels import embedding_rows

from mdrec_jax.parallel.collectives import Spread


@dataclass(frozen=True)
class Lookup:
    """One step's rows: their values, the tables' row numbers they came from, and where each name finds its own."""

    values: dict[str, jax.Array]
    ids: dict[str, jax.Array | None]
    """Row numbers of `values`; None when the values are the whole table."""
    index: dict[str, dict[str, jax.Array]]


def look_up(
    tables: dict[str, jax.Array], ids: dict[str, dict[str, jax.Array]], spread: Spread, *, whole: bool
) -> Lookup:
    """The rows that the global batch touches, each once; or the whole tables.

    Every device looks up the union over all of them, so row gradients are summed by one collective and the update is
    the same on every device and for every mesh.
    """
    if whole:
        return Lookup(dict(tables), dict.fromkeys(tables), ids)
    values, unique, index = {}, {}, {}
    for name, table in tables.items():
        values[name], unique[name], everywhere = embedding_rows.lookup(table, spread.gather(ids[name]))
        index[name] = {k: spread.mine(everywhere[k], len(mine)) for k, mine in ids[name].items()}
    return Lookup(values, unique, index)
