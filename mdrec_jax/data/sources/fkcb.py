"""FedDCSR's four Amazon domains (Food, Kitchen, Clothing, Beauty): rows that are sequences of their own.

A folder a domain holds `train_data.txt`, `valid_data.txt` and `test_data.txt`: tab-separated whole numbers, the user's
id (one person in all domains) and then the items (local to the domain, 0 to `num_items.txt` - 1). A user may own
several rows. In validation and test rows the last item is the target and those before it are its input: they are read
and never predicted. Nothing is known about time or about the order of two rows or domains.
`prep_data/DisenVGSAN_test_data.pkl`, where it exists, holds each test row's fixed negatives.
Source: Zhang et al., "FedDCSR" (SDM 2024).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mdrec_jax.data.sources.rawlog import CANDIDATE_SCHEMA, OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import (
    check_declared,
    find_in,
    one_path,
    parse_int,
    read_lines,
    read_text,
    require_folder,
)
from mdrec_jax.data.sources.safe_pickle import load_plain, whole_numbers
from mdrec_jax.errors import InputError

_SPLITS = {"train": 0, "valid": 1, "test": 2}
_CONTEXT = 3
_PICKLE = "prep_data/DisenVGSAN_test_data.pkl"


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads every domain's sub-folder of one folder.

    Raises:
        InputError: a file is missing or malformed, an item is outside its domain, or the fixed candidates do not belong
            to the test rows.
    """
    options.refuse("fkcb", *OPTION_NAMES)
    folder = require_folder(one_path(paths, "the folder of the domains"), "the folder of the domains")
    domains = sorted(
        sub.name for sub in folder.iterdir() if sub.is_dir() and find_in(sub, "train_data.txt", optional=True)
    )
    if not domains:
        raise InputError(
            "no domain", file=folder, expected="sub-folders with train_data.txt, valid_data.txt, test_data.txt"
        )
    files: list[Path] = []
    frames, items, candidates = [], {}, []
    for domain in domains:
        size = _num_items(folder / domain, files)
        rows = {split: _rows(folder / domain, split, size, files) for split in _SPLITS}
        seen = 1 + max((item for lines in rows.values() for line in lines for item in line[1:]), default=-1)
        check_declared(size, seen, file=folder / domain / "num_items.txt", what="items")
        frames += [_events(domain, split, rows[split]) for split in _SPLITS]
        items[domain] = pl.DataFrame({"item": [str(item) for item in range(size)]})
        path = find_in(folder / domain, _PICKLE, optional=True)
        if path is not None:
            files.append(path)
            candidates.append(_candidates(path, domain, rows["test"], size))
    events = pl.concat(frames).with_columns(
        pl.lit("review").alias("event"), pl.int_range(pl.len(), dtype=pl.Int64).alias("order")
    )
    return RawLog(
        events=events.lazy(),
        has_time=False,
        ordered=True,
        files=tuple(files),
        items=items,
        candidates={"fixed": pl.concat(candidates)} if candidates else {},
        items_across="separate",
        default_split="given",
        domains=tuple(domains),
        event_types=("review",),
        keep_items=True,
    )


def _num_items(folder: Path, files: list[Path]) -> int:
    path = find_in(folder, "num_items.txt")
    files.append(path)
    return parse_int(read_text(path).strip(), file=path, row=1, column="num_items", minimum=1)


def _rows(folder: Path, split: str, num_items: int, files: list[Path]) -> list[list[int]]:
    """[user, item, item, ...] of every line."""
    path = find_in(folder, f"{split}_data.txt")
    files.append(path)
    rows = []
    shortest = 1 if split == "train" else 2
    for number, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) <= shortest:
            expected = f"a user and at least {shortest} items, tab-separated"
            raise InputError("row too short", file=path, row=number, found=line, expected=expected)
        names = ["user", *(f"item {place}" for place in range(1, len(fields)))]
        values = [
            parse_int(field, file=path, row=number, column=name) for field, name in zip(fields, names, strict=True)
        ]
        if max(values[1:]) >= num_items:
            expected = f"items 0 to {num_items - 1}"
            raise InputError(
                "an item outside its domain", file=path, row=number, found=max(values[1:]), expected=expected
            )
        rows.append(values)
    return rows


def _events(domain: str, split: str, rows: list[list[int]]) -> pl.DataFrame:
    role = pl.lit(0, pl.Int8)
    if split != "train":
        last = pl.int_range(pl.len()).over("sequence") == pl.len().over("sequence") - 1
        role = pl.when(last).then(pl.lit(_SPLITS[split], pl.Int8)).otherwise(pl.lit(_CONTEXT, pl.Int8))
    frame = pl.DataFrame(
        {
            "sequence": [f"{domain}/{split}/{number}" for number in range(len(rows))],
            "user": [str(row[0]) for row in rows],
            "item": [row[1:] for row in rows],
        }
    )
    return frame.explode("item").with_columns(
        pl.col("item").cast(pl.String), pl.lit(domain).alias("domain"), role.alias("role")
    )


def _candidates(path: Path, domain: str, rows: list[list[int]], num_items: int) -> pl.DataFrame:
    """The fixed negatives of the test rows, after checking that entry k of the pickle is row k."""
    found = load_plain(path)
    if not isinstance(found, list) or len(found) != len(rows):
        size = len(found) if isinstance(found, list) else type(found).__name__
        raise InputError("not one entry a test row", file=path, found=size, expected=f"{len(rows)} entries")
    negatives = [
        _entry(path, k, entry, row, num_items) for k, (entry, row) in enumerate(zip(found, rows, strict=True), 1)
    ]
    columns = {
        "sequence": [f"{domain}/test/{number}" for number in range(len(rows))],
        "domain": [domain] * len(rows),
        "negatives": pl.Series(negatives, dtype=pl.List(pl.Int64)).cast(pl.List(pl.String)),
    }
    return pl.DataFrame(columns, schema=CANDIDATE_SCHEMA)


def _entry(path: Path, number: int, entry: Any, row: list[int], num_items: int) -> np.ndarray:
    """The negatives of one entry [inputs, padded in front by `num_items`; target; negatives]."""
    shape = "[padded inputs, target, negatives]"
    if (
        not isinstance(entry, list)
        or len(entry) != 3
        or not isinstance(entry[0], list)
        or not isinstance(entry[2], list)
    ):
        raise InputError("malformed entry", file=path, row=number, found=type(entry).__name__, expected=shape)
    inputs = [item for item in entry[0] if item != num_items]
    if entry[1] != row[-1] or inputs != row[1:-1][-len(entry[0]) :]:
        expected = f"inputs and target of row {number} of test_data.txt"
        raise InputError("entry of another row", file=path, row=number, found=entry[:2], expected=expected)
    negatives = whole_numbers(entry[2])
    if negatives is None or negatives.min() < 0 or negatives.max() >= num_items:
        raise InputError("negatives that are no items", file=path, row=number, expected=f"items 0 to {num_items - 1}")
    return negatives
