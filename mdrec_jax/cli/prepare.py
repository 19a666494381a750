"""`mdrec prepare`: from raw logs to a prepared dataset."""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

PARTS = ("train", "validation", "test")
DESCRIPTION = """Read logs, filter them, order every user's events, hold out validation and test targets, and write a
dataset that training and evaluation read. What stood at --out is replaced in one step, and only by a whole dataset."""


def add_parser(subparsers: Any) -> None:
    from mdrec_jax.data.sources import SOURCES

    parser = subparsers.add_parser("prepare", help="make a dataset from raw logs", description=DESCRIPTION)
    parser.add_argument("source", metavar="SOURCE", choices=list(SOURCES), help=" ".join(SOURCES))
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="files or folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's folder")
    columns = parser.add_argument_group("columns and files of a table")
    for name in ("user", "item", "time", "domain", "event", "rating"):
        help_text = "none: the order of the rows is the order of events" if name == "time" else None
        columns.add_argument(f"--{name}-column", metavar="C", help=help_text)
    columns.add_argument(
        "--domain", action="append", default=[], metavar="NAME=PATH", dest="domains", help="a domain's own file"
    )
    columns.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns", "iso"),
        help="how times are written (a table: s, or iso where every time is a date such as 20140723)",
    )
    columns.add_argument("--separator", metavar="X", help="what stands between fields, one character (\\t for a tab)")
    columns.add_argument("--no-header", action="store_true", help="the first line is data; columns are 1, 2, 3, ...")
    columns.add_argument(
        "--bad-rows",
        choices=("refuse", "skip"),
        default="refuse",
        help="rows of events or items that cannot be used: refuse the first, or leave them out and count them",
    )
    for part in PARTS:
        columns.add_argument(
            f"--{part}-file", action="append", default=[], type=Path, metavar="FILE", help=f"events given as {part}"
        )
    columns.add_argument(
        "--items", type=Path, dest="items_file", metavar="FILE", help="a table of items: csv, tsv, parquet or jsonl"
    )
    columns.add_argument("--item-id", metavar="C", help="its column of ids")
    columns.add_argument("--title", metavar="C", help="its column of titles")
    columns.add_argument("--category", metavar="C", help="its column of category paths (levels parted by |)")
    filters = parser.add_argument_group("filters")
    core = "(default: 5 for tables, else as the source was published)"
    filters.add_argument(
        "--min-user", type=int, metavar="N", help=f"events a user must have, held-out ones counted {core}"
    )
    filters.add_argument(
        "--min-item", type=int, metavar="N", help=f"events an item must have, held-out ones counted {core}"
    )
    filters.add_argument("--max-len", type=int, metavar="N", help="only the latest N events of a sequence")
    filters.add_argument("--min-rating", type=float, metavar="X", help="only events rated X or more")
    filters.add_argument(
        "--target-events", metavar="a,b", help="only these event types are predicted; the others are read"
    )
    filters.add_argument(
        "--only-domains", metavar="A,B", help="only these domains, with the targets that they have beside the others"
    )
    filters.add_argument(
        "--duplicates",
        choices=("keep", "exact", "first", "last"),
        default="keep",
        help="which of a user's events with one item stay: all, one for each time, the first, or the last",
    )
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--tie", choices=("seeded", "id", "file"), default="seeded", help="the order of events of equal time"
    )
    rules.add_argument(
        "--items-across", choices=("shared", "separate"), help="whether equal ids in two domains are one item"
    )
    rules.add_argument(
        "--split",
        metavar="RULE",
        help="loo: the last two events of each user and domain (training holds what the user did later elsewhere); "
        "loo-mixed: the last two of each user (nothing later than a user's targets is trained on); time:T1,T2; given. "
        "Filters such as --min-user come before the split",
    )
    rules.add_argument("--seed", type=int, default=0, metavar="N", help="of ids and ties")
    rules.add_argument("--extend", type=Path, metavar="DIR", help="a dataset whose ids stay as they are")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
    from mdrec_jax.data.sources.rawlog import SourceOptions
    from mdrec_jax.data.summary import notes, summarise, summary_lines

    files = SourceOptions(
        **_given(args, SourceOptions, "domains", "skip_bad_rows", "separator", "given"),
        domains=tuple(_domain(text) for text in args.domains),
        skip_bad_rows=args.bad_rows == "skip",
        separator=args.separator.replace("\\t", "\t") if args.separator is not None else None,
        given=tuple((part, path) for part in PARTS for path in getattr(args, f"{part}_file")),
    )
    options = PrepareOptions(
        **_given(args, PrepareOptions, "target_events", "only_domains", "source"),
        target_events=_names(args.target_events, "--target-events", "buy,order"),
        only_domains=_names(args.only_domains, "--only-domains", "books,films"),
        source=files,
    )
    start = time.perf_counter()
    dataset = prepare(args.source, args.paths, args.out, options)
    seconds = time.perf_counter() - start
    for line in summary_lines(dataset, summarise(dataset)):
        say(line)
    for note in notes(dataset):
        say(f"note: {note}", file=sys.stderr)
    say(f"prepared in {seconds:.1f} s", file=sys.stderr)
    return EXIT_OK


def _given(args: argparse.Namespace, options: type, *others: str) -> dict[str, Any]:
    """The arguments that have the names of the options' fields, but for those of `others`."""
    return {field.name: getattr(args, field.name) for field in fields(options) if field.name not in others}


def _names(text: str | None, option: str, example: str) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError("an empty name", column=option, found=text, expected=f"names such as {example}")
    return names


def _domain(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name.strip() or not path:
        raise InputError("not a domain", column="--domain", found=text, expected="NAME=PATH")
    return name.strip(), Path(path)
