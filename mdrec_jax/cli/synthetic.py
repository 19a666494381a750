"""`mdrec synthetic`: a planted world whose truth is known, as a prepared dataset."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK
from mdrec_jax.terminal import say

DESCRIPTION = """Draw users, items and events of several domains from factors that are known, and write them as a
dataset, with the truth (factors, intents, which events are noise) in its folder truth/. The same options give the same
bytes. SyntheticConfig in mdrec_jax/data/synthetic/config.py says what every option is."""

HELP = {
    "users": "number of users",
    "items": "items of a domain",
    "domains": "number of domains",
    "overlap": "share of users who are active in every domain; each of the others is active in one",
    "mean_length": "mean number of events a user",
    "noise": "share of events drawn by popularity alone",
    "cold": "share of items that no training event holds",
    "seed": "of everything",
}


def add_parser(subparsers: Any) -> None:
    from mdrec_jax.data.synthetic.config import SyntheticConfig

    parser = subparsers.add_parser("synthetic", help="make a planted world to learn from", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's folder")
    parser.add_argument(
        "--long", action="store_true", help="long histories in which some events are decided 300 to 700 events earlier"
    )
    main = parser.add_argument_group("the world")
    more = parser.add_argument_group("more of the world")
    for field in dataclasses.fields(SyntheticConfig):
        group = main if field.name in HELP else more
        flag, default = "--" + field.name.replace("_", "-"), field.default
        help_text = f"{HELP.get(field.name, '')} (default: {default})".strip()
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        elif isinstance(default, tuple):
            group.add_argument(flag, type=int, nargs=len(default), default=None, metavar="N", help=help_text)
        else:
            metavar = "N" if isinstance(default, int) else "X"
            group.add_argument(flag, type=type(default), default=None, metavar=metavar, help=help_text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.summary import summarise, summary_lines
    from mdrec_jax.data.synthetic import SyntheticConfig, long_history, write_world

    base = long_history() if args.long else SyntheticConfig()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base) if getattr(args, f.name) is not None}
    if "long_gap" in given:
        given["long_gap"] = tuple(given["long_gap"])
    start = time.perf_counter()
    dataset = write_world(dataclasses.replace(base, **given), args.out)
    seconds = time.perf_counter() - start
    for line in summary_lines(dataset, summarise(dataset)):
        say(line)
    say(f"made in {seconds:.1f} s; the truth is in {dataset.path / 'truth'}", file=sys.stderr)
    return EXIT_OK
