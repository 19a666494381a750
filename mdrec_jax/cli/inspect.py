"""`mdrec inspect`: what a prepared dataset is like, or how a run went."""

import argparse
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="show what a dataset is like, or how a run went",
        description="Of a dataset: counts, lengths, overlap of domains, cold targets, ties, and a probe of whether ids "
        "leak answers. Of a run: its configuration, steps, validation, speed, checkpoints and results.",
    )
    parser.add_argument("path", type=Path, metavar="DIR|RUN", help="a prepared dataset or a run folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.train.run_folder import RunFolder

    return _inspect_run(args.path) if RunFolder(args.path).holds_a_run() else _inspect_dataset(args.path)


def _inspect_dataset(path: Path) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.data.inspect import summarise, summary_lines

    dataset = open_dataset(path, verify=True)
    for line in summary_lines(dataset, summarise(dataset)):
        print(line)
    return EXIT_OK


def _inspect_run(path: Path) -> int:
    from mdrec_jax.cli.floors import show_results
    from mdrec_jax.train.inspect import run_lines, summarise_run

    summary = summarise_run(path)
    for line in run_lines(path, summary):
        print(line)
    show_results(list(summary.results))
    return EXIT_OK
