"""`mdrec inspect`: what a prepared dataset is like, how a run went, or what its layers do with events."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console, say


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="show what a dataset is like, or how a run went",
        description="Of a dataset: counts, lengths, overlap of domains, cold targets, ties, and a probe of whether ids "
        "leak answers. Of a run: its configuration, steps, validation, speed, checkpoints and results.",
    )
    parser.add_argument("path", type=Path, metavar="DIR|RUN", help="a prepared dataset or a run folder")
    parser.add_argument(
        "--routing",
        action="store_true",
        help="of a run: mean loops by layer, domain and history length, and the shares of mixers and experts by "
        "domain, behaviour type, time gap and history length, over the histories of evaluation queries",
    )
    parser.add_argument("--split", choices=("test", "validation"), default="validation", help="of the queries")
    parser.add_argument("--at-most", type=int, default=10_000, metavar="N", help="queries; 0 = all (default: 10,000)")
    parser.add_argument("--json", metavar="FILE", help="write the figures, layer by layer; - = standard output")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw them")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.train.runs.run_folder import RunFolder

    check_output(args.json)
    if args.at_most < 0:
        raise InputError("option out of range", column="--at-most", found=args.at_most, expected="0 or more")
    if args.routing:
        return _routing(args)
    if args.json or args.plot:
        raise InputError("nothing to write", column="--json, --plot", expected="--routing before them")
    return _inspect_run(args.path) if RunFolder(args.path).holds_a_run() else _inspect_dataset(args.path)


def _inspect_dataset(path: Path) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.data.summary import summarise, summary_lines
    from mdrec_jax.evaluate.baselines.run import baselines_folder
    from mdrec_jax.evaluate.looks_at_test import look_lines, read_looks

    dataset = open_dataset(path, verify=True)
    looks = read_looks(baselines_folder(dataset))
    for line in (*summary_lines(dataset, summarise(dataset)), *(look_lines(looks) if looks else ())):
        say(line)
    return EXIT_OK


def _inspect_run(path: Path) -> int:
    from mdrec_jax.cli.baselines import show_results
    from mdrec_jax.train.runs.show import run_lines, summarise_run

    summary = summarise_run(path)
    for line in run_lines(path, summary):
        say(line)
    show_results(list(summary.results))
    return EXIT_OK


def _routing(args: argparse.Namespace) -> int:
    from mdrec_jax.cli.baselines import give_json
    from mdrec_jax.evaluate.probes.routing_report import plot_routing, routing_tables
    from mdrec_jax.train.evaluation import inspect_routing

    routing = inspect_routing(args.path, args.split, at_most=args.at_most)
    if args.plot:
        plot_routing(routing, args.plot)
        say(f"wrote {args.plot}", file=sys.stderr)
    if give_json(routing.to_json(), args.json):
        return EXIT_OK
    left_out = "".join(f"; {reason}: {number:,}" for reason, number in routing.counts.items())
    say(f"{routing.events:,} events of the histories of {routing.queries:,} {routing.split} queries{left_out}")
    for table in routing_tables(routing):
        console().print(table)
    return EXIT_OK
