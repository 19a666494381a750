"""`mdrec recommend`: the best items for users, from files to a file."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

DESCRIPTION = """Write the best items for users of the dataset, or for histories that it does not know. Items that
are unknown are counted; a user about whom nothing is known gets the popularity list, and the row says so."""


COLUMNS = ("user", "item", "time", "domain", "event")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("recommend", help="recommend items with a trained run", description=DESCRIPTION)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run")
    users = parser.add_mutually_exclusive_group(required=True)
    users.add_argument("--users", type=Path, metavar="FILE", help="users of the dataset, as its source names them")
    users.add_argument("--histories", type=Path, metavar="FILE", help="events of users, known or not")
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the one the run was trained on)")
    parser.add_argument(
        "--time-unit", choices=("s", "ms", "us", "ns", "iso"), help="how times are written (default: s)"
    )
    add_bad_rows(parser, "the histories")
    parser.add_argument("--domain", metavar="D", help="recommend from this domain (default: from each)")
    beside = "; with a column of users beside the items, to each their own"
    parser.add_argument("--allow", type=Path, metavar="FILE", help=f"recommend these items alone{beside}")
    parser.add_argument("--deny", type=Path, metavar="FILE", help=f"never recommend these items{beside}")
    parser.add_argument(
        "--append", action="store_true", help="read what the dataset has of its users before their --histories"
    )
    parser.add_argument("--k", type=int, default=10, help="items for each user and domain")
    parser.add_argument("--keep-seen", action="store_true", help="also recommend what the user had already")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .csv, .jsonl or .parquet file; in a .csv what a spreadsheet would take for a formula begins with '",
    )
    add_columns(parser)
    parser.set_defaults(run=run)


def add_bad_rows(parser: argparse.ArgumentParser, of: str) -> None:
    """The option that says what is done with rows of a file that cannot be used."""
    parser.add_argument(
        "--bad-rows",
        choices=("refuse", "skip"),
        default="refuse",
        help=f"what to do with rows of {of} that cannot be used: refuse the first, or leave them out and count them",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """The options that name the columns of a file."""
    columns = parser.add_argument_group("columns of the files (default: as `mdrec prepare` was told, or as is usual)")
    for what in COLUMNS:
        columns.add_argument(f"--{what}-column", metavar="C")


def given_columns(args: argparse.Namespace) -> dict[str, str]:
    """What -> the name of its column, where one was given."""
    named = {what: getattr(args, f"{what}_column") for what in COLUMNS}
    return {what: name for what, name in named.items() if name is not None}


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.serve.recommendations import check_output, recommend_files
    from mdrec_jax.train.trained import load_run

    if args.append and args.histories is None:
        raise InputError("nothing to append", column="--append", expected="with --histories")
    if args.bad_rows == "skip" and args.histories is None:
        raise InputError("no rows to skip", column="--bad-rows", found="skip", expected="with --histories")
    check_output(args.out, args.users, args.histories, args.allow, args.deny)
    trained = load_run(args.run_folder, open_dataset(args.data) if args.data else None)
    counts = recommend_files(
        trained.scorer,
        trained.setup.dataset,
        args.out,
        users=args.users,
        histories=args.histories,
        domain=args.domain,
        allow=args.allow,
        deny=args.deny,
        k=args.k,
        keep_seen=args.keep_seen,
        append=args.append,
        time_unit=args.time_unit,
        columns=given_columns(args),
        skip_bad_rows=args.bad_rows == "skip",
    )
    for reason, number in counts.items():
        say(f"{reason}: {number:,}", file=sys.stderr)
    say(f"wrote {args.out}", file=sys.stderr)
    return EXIT_OK
