"""ABXI's two-domain files: a line a user, `user item|unix_time item|unix_time ...`, and maps to Amazon's ids.

A folder holds `<name>_<n>_preprocessed.txt`, `map_item_<n>.txt` (JSON: ASIN -> [item, domain]) and `map_user_<n>.txt`
(JSON: reviewer -> user). Source: Bian et al., "ABXI" (WWW 2025). Its protocol is one mixed sequence a user: the last
event is the test target, the one before it the validation target.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mdrec_jax.data.sources.lines import locate_rows
from mdrec_jax.data.sources.rawlog import OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import find_in, one_path, read_json, read_lines, require_folder
from mdrec_jax.errors import InputError

_DOMAINS = {"abe": ("Beauty", "Electronics"), "afk": ("Food", "Kitchen"), "amb": ("Movie", "Book")}
"""The repository's names for its three pairs."""
_TIME = re.compile("[0-9]{1,12}")


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads one folder.

    Raises:
        InputError: a file is missing or malformed, or an item has no domain.
    """
    options.refuse("abxi", *OPTION_NAMES)
    folder = require_folder(one_path(paths, "ABXI's folder"), "ABXI's folder")
    events_file = _events_file(folder)
    name, number = events_file.name.split("_preprocessed.txt")[0].rsplit("_", 1)
    item_file, user_file = (find_in(folder, f"map_{what}_{number}.txt") for what in ("item", "user"))
    domains = _DOMAINS.get(name, ("A", "B"))
    items, users = _items(item_file), _users(user_file)
    columns = _parse(events_file, items, users, domains)
    rows = columns.pop("row")
    events = pl.LazyFrame(
        columns, schema={"user": pl.String, "item": pl.String, "domain": pl.String, "time": pl.Int64}
    ).with_columns(pl.lit("review").alias("event"), pl.int_range(pl.len(), dtype=pl.Int64).alias("order"))
    return RawLog(
        events=events,
        has_time=True,
        ordered=True,
        files=(events_file, item_file, user_file),
        default_split="loo-mixed",
        domains=domains,
        event_types=("review",),
        locate=locate_rows([(events_file, rows)]),
    )


def _events_file(folder: Path) -> Path:
    found = sorted({path.name.removesuffix(".gz") for path in folder.glob("*_*_preprocessed.txt*")})
    if len(found) != 1:
        expected = "one file NAME_NUMBER_preprocessed.txt in this folder"
        raise InputError("no single file of sequences", file=folder, found=found, expected=expected)
    return find_in(folder, found[0])


def _items(path: Path) -> dict[str, tuple[str, int]]:
    """Item number (as written in the sequences) -> (ASIN, domain 0 or 1)."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError("not a map of items", file=path, found=type(found).__name__, expected="{ASIN: [item, domain]}")
    items: dict[str, tuple[str, int]] = {}
    for asin, entry in found.items():
        if (
            not asin
            or not isinstance(entry, list)
            or len(entry) != 2
            or [type(number) for number in entry] != [int, int]
            or entry[1] not in (0, 1)
        ):
            expected = "[item, domain] with domain 0 or 1"
            raise InputError("an item with no domain", file=path, column=asin, found=entry, expected=expected)
        if items.setdefault(str(entry[0]), (asin, entry[1])) != (asin, entry[1]):
            raise InputError(
                "an item number given twice", file=path, column=asin, found=entry[0], expected="one ASIN each"
            )
    return items


def _users(path: Path) -> dict[str, str]:
    found = read_json(path)
    if not isinstance(found, dict) or "" in found or not all(type(number) is int for number in found.values()):
        raise InputError("not a map of users", file=path, found=type(found).__name__, expected="{reviewer: user}")
    users = {str(number): reviewer for reviewer, number in found.items()}
    if len(users) != len(found):
        raise InputError("a user number given twice", file=path, expected="one reviewer each")
    return users


def _parse(
    path: Path, items: dict[str, tuple[str, int]], users: dict[str, str], domains: tuple[str, str]
) -> dict[str, list]:
    columns: dict[str, list] = {"user": [], "item": [], "domain": [], "time": [], "row": []}
    for row, line in read_lines(path):
        number, *tokens = line.split()
        if number not in users:
            raise InputError("a user that the map does not have", file=path, row=row, column="user", found=number)
        if not tokens:
            raise InputError("a user without events", file=path, row=row, found=line, expected="user item|time ...")
        for place, token in enumerate(tokens, 1):
            item, _, time = token.partition("|")
            if not _TIME.fullmatch(time):
                where, expected = f"event {place}", "item|unix_time"
                raise InputError("unparsable event", file=path, row=row, column=where, found=token, expected=expected)
            if item not in items:
                where, expected = f"event {place}", "an item of the item map"
                raise InputError(
                    "an item with no domain", file=path, row=row, column=where, found=item, expected=expected
                )
            asin, domain = items[item]
            columns["item"].append(asin)
            columns["domain"].append(domains[domain])
            columns["time"].append(int(time))
        columns["user"].extend([users[number]] * len(tokens))
        columns["row"].extend([row] * len(tokens))
    return columns
