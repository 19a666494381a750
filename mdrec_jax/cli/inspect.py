"""`mdrec inspect`: what a prepared dataset is like."""

import argparse
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="show what a dataset is like",
        description="Counts, lengths, overlap of domains, cold targets, ties, and a probe of whether ids leak answers.",
    )
    parser.add_argument("path", type=Path, metavar="DIR", help="a prepared dataset")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.data.inspect import summarise, summary_lines

    dataset = open_dataset(args.path, verify=True)
    for line in summary_lines(dataset, summarise(dataset)):
        print(line)
    return EXIT_OK
