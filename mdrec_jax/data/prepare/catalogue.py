"""The items of a dataset: their ids, the domains that they belong to, what the source tells about them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int32

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.ids import FIRST_ITEM, UNKNOWN_ITEM, append_ids, dense_codes
from mdrec_jax.data.prepare.ingest import Events, Vocabulary
from mdrec_jax.data.sources.rawlog import ITEM_SCHEMA, RawLog
from mdrec_jax.errors import InputError

ITEM_COLUMNS = {"id": pl.Int32, "raw": pl.String, **{k: v for k, v in ITEM_SCHEMA.items() if k != "item"}}


@dataclass(frozen=True)
class Catalogue:
    """The items of a dataset.

    Args:
        ids: domain Int32, raw String, id Int32: one row for each domain that an item belongs to.
        item_id: the id of each item code of the vocabulary (0 = not in the dataset).
        count: number of items.
        tables: for each domain its rows of ITEM_COLUMNS, by ascending id.
        dropped: metadata that belongs to no item, by reason.
    """

    ids: pl.DataFrame
    item_id: Int32[np.ndarray, " I"]
    count: int
    tables: tuple[pl.DataFrame, ...]
    dropped: dict[str, int]


def make_catalogue(
    events: Events, vocabulary: Vocabulary, log: RawLog, items_across: str, parent: Dataset | None, seed: int
) -> Catalogue:
    """Numbers the items that occur (and those that the source or `parent` wants kept) from 2 on.

    Raises:
        InputError: item metadata of a domain that is not known, without an item, or twice for an item.
    """
    _check_metadata(log, vocabulary.domains)
    pairs = _occurring(events, vocabulary)
    found = [pairs.select("domain", "raw")]
    if log.keep_items:
        found += [_in_domain(frame, vocabulary.domains.index(name)) for name, frame in log.items.items()]
    old_tables = {name: parent.items(name) for name in parent.manifest.domains} if parent else {}
    found += [
        frame.select(pl.lit(vocabulary.domains.index(name), pl.Int32).alias("domain"), "raw")
        for name, frame in old_tables.items()
    ]
    pairs_all = pl.concat(found).unique()
    if log.unknown_item is not None:
        pairs_all = pairs_all.filter(pl.col("raw") != log.unknown_item)
    keys = ["raw"] if items_across == "shared" else ["raw", "space"]
    names = pl.DataFrame(
        {"domain": range(len(vocabulary.domains)), "space": vocabulary.domains},
        schema={"domain": pl.Int32, "space": pl.String},
    )
    pairs_all = pairs_all.join(names, on="domain")
    known = None
    if old_tables:
        known = pl.concat([frame.select("raw", "id", space=pl.lit(name)) for name, frame in old_tables.items()])
        known = known.unique(keys).sort("id")
    numbered = append_ids(pairs_all.select(keys).unique(), keys, known, FIRST_ITEM, seed)
    ids = pairs_all.join(numbered, on=keys).select("domain", "raw", "id").sort("domain", "id")
    item_id = np.zeros(len(vocabulary.items), np.int32)
    placed = pairs.join(ids, on=["domain", "raw"])
    item_id[placed["code"].to_numpy()] = placed["id"].to_numpy()
    item_id[vocabulary.unknown_items] = UNKNOWN_ITEM
    tables = tuple(
        _table(ids.filter(pl.col("domain") == index), log.items.get(name), old_tables.get(name))
        for index, name in enumerate(vocabulary.domains)
    )
    unused = _unused(ids, log, vocabulary.domains)
    dropped = {"item metadata without events": unused} if unused else {}
    return Catalogue(ids=ids, item_id=item_id, count=len(numbered), tables=tables, dropped=dropped)


def _occurring(events: Events, vocabulary: Vocabulary) -> pl.DataFrame:
    """domain, raw, code of every item code in every domain that it has an event in."""
    domains = len(vocabulary.domains)
    _, key = dense_codes(events.item.astype(np.int64) * domains + events.domain, len(vocabulary.items) * domains)
    code = key // domains
    return pl.DataFrame(
        {
            "domain": (key % domains).astype(np.int32),
            "raw": vocabulary.items.gather(code),
            "code": code.astype(np.int64),
        }
    )


def _in_domain(frame: pl.DataFrame, domain: int) -> pl.DataFrame:
    return frame.select(pl.lit(domain, pl.Int32).alias("domain"), pl.col("item").cast(pl.String).alias("raw"))


def _check_metadata(log: RawLog, domains: tuple[str, ...]) -> None:
    for name, frame in log.items.items():
        if name not in domains:
            raise InputError(
                "items of an unknown domain", column="domain", found=name, expected="one of " + ", ".join(domains)
            )
        if frame["item"].null_count():
            row = int(frame["item"].is_null().arg_max() or 0) + 1
            raise InputError(f"an item of domain '{name}' has no id", row=row, column="item", expected="an id")
        if frame["item"].n_unique() != len(frame):
            twice = frame.filter(pl.col("item").is_duplicated())["item"][0]
            raise InputError(
                f"an item of domain '{name}' is described twice", column="item", found=twice, expected="one row an item"
            )


def _unused(ids: pl.DataFrame, log: RawLog, domains: tuple[str, ...]) -> int:
    """Rows of metadata that are about no item in any domain that they tell of; a frame may tell of several."""
    unused = 0
    for frame in {id(frame): frame for frame in log.items.values()}.values():
        told = [index for index, name in enumerate(domains) if log.items.get(name) is frame]
        here = ids.filter(pl.col("domain").is_in(told))
        unused += len(frame.select(raw=pl.col("item").cast(pl.String)).join(here, on="raw", how="anti"))
    return unused


def _table(ids: pl.DataFrame, metadata: pl.DataFrame | None, old: pl.DataFrame | None) -> pl.DataFrame:
    """A domain's item table; new metadata goes before what the parent knew."""
    table = ids.select("id", "raw")
    frames = []
    if metadata is not None:
        metadata = metadata.rename({"item": "raw"}).with_columns(pl.col("raw").cast(pl.String))
        frames.append(metadata)
    if old is not None:
        frames.append(old.drop("id"))
    for place, frame in enumerate(frames):
        table = table.join(frame, on="raw", how="left", suffix=f":{place}")
    for name, kind in ITEM_COLUMNS.items():
        choices = [column for column in (name, f"{name}:1") if column in table.columns]
        value = pl.coalesce(choices).cast(kind) if choices else pl.lit(None, kind)
        table = table.with_columns(value.alias(name))
    return table.select(*ITEM_COLUMNS).sort("id")
