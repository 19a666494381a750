"""`mdrec baselines`: what counting alone reaches on a prepared dataset."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console, say

DESCRIPTION = """Rank the held-out items by popularity and by transition counts, without any learning. A model that does
not beat these figures has learned little. Under the protocol of a published table they also check the evaluation."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "baselines", help="what counting alone reaches on a dataset", description=DESCRIPTION
    )
    parser.add_argument("path", type=Path, metavar="DIR", help="a prepared dataset")
    add_protocol_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of drawn candidates")
    parser.add_argument("--metrics", metavar="A,B", default="", help="hr@K recall@K precision@K ndcg@K mrr")
    parser.add_argument("--slices", action="store_true", help="also by history length, warm and cold targets, and day")
    parser.add_argument("--json", metavar="FILE", help="write a results file, and ranks beside it; - = standard output")
    parser.set_defaults(run=run)


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that ranks held-out items."""
    parser.add_argument(
        "--protocol",
        default="full",
        metavar="NAME",
        help="full: all items but those seen; full-with-seen: all items; uniformN: N drawn items, at test the mean "
        "of 30 draws; uniformNxM: the mean of M draws; fixed:FILE (default: full)",
    )
    parser.add_argument("--split", choices=("test", "validation"), default="test")


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.evaluate.baselines import baseline_results
    from mdrec_jax.evaluate.metrics import parse_metric
    from mdrec_jax.evaluate.protocol import parse_protocol
    from mdrec_jax.evaluate.results import write_results

    check_output(args.json)
    metrics = tuple(name.strip() for name in args.metrics.split(",") if name.strip())
    for name in metrics:
        parse_metric(name)
    dataset = open_dataset(args.path)
    protocol = parse_protocol(args.protocol, source=dataset.manifest.source, split=args.split, seed=args.seed)
    results, ranks = baseline_results(dataset, protocol, metrics=metrics)
    if args.json == "-":
        say(json.dumps(results.to_json(), indent=2, ensure_ascii=False))
        return EXIT_OK
    if args.json:
        write_results(Path(args.json), results, {name: [one] for name, one in ranks.items()})
        say(f"wrote {args.json}", file=sys.stderr)
    show_results([results], metrics, slices=args.slices)
    return EXIT_OK


def show_results(results: list[Any], columns: tuple[str, ...] = (), *, slices: bool = False) -> None:
    """Prints the tables of some results on standard output."""

    from mdrec_jax.evaluate.table import results_tables

    shown = console()
    for table in results_tables(results, columns=columns):
        shown.print(table)
    if slices:
        for table in results_tables(results, columns=columns, slices=True):
            shown.print(table)
