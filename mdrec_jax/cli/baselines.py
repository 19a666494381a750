"""`mdrec baselines`: what is reached on a prepared dataset without a network."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console, say

DESCRIPTION = """Rank the held-out items by popularity, by transition counts, by the linear models ItemKNN, EASE and a
ridge regression to the next item, and by their sum; settings are chosen on the validation split, which is ranked unless
--split test is given. A model that does not beat these figures has learned little. The results stay with the dataset:
`mdrec evaluate` shows those of its split and protocol beside a run's. Each look at test is recorded there too
(baselines/test_looks.jsonl; `mdrec inspect DIR` shows them)."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "baselines", help="what is reached on a dataset without a network", description=DESCRIPTION
    )
    parser.add_argument("path", type=Path, metavar="DIR", help="a prepared dataset")
    add_protocol_options(parser, split="validation")
    parser.add_argument("--seed", type=int, default=0, help="of drawn candidates")
    parser.add_argument(
        "--query-time",
        action="store_true",
        help="the time of the event to be found may be read, as by a model with query_time_visible",
    )
    parser.add_argument("--metrics", metavar="A,B", default="", help="hr@K recall@K precision@K ndcg@K mrr")
    parser.add_argument("--slices", action="store_true", help="also by history length, warm and cold targets, and day")
    parser.add_argument(
        "--json", metavar="FILE", help="where the results go (default: DIR/baselines); - = standard output"
    )
    parser.set_defaults(run=run)


def add_protocol_options(parser: argparse.ArgumentParser, split: str = "test") -> None:
    """The options of every command that ranks held-out items; `split` is the one it ranks when none is given."""
    parser.add_argument(
        "--protocol",
        default="full",
        metavar="NAME",
        help="full: all items but those seen; full-with-seen: all items; uniformN: N drawn items, at test the mean "
        "of 30 draws; uniformNxM: the mean of M draws; fixed:FILE (default: full)",
    )
    parser.add_argument("--split", choices=("test", "validation"), default=split, help=f"(default: {split})")


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.evaluate.baselines.run import baseline_results, baselines_file
    from mdrec_jax.evaluate.metrics import parse_metric
    from mdrec_jax.evaluate.protocol import parse_protocol
    from mdrec_jax.evaluate.results import write_results

    metrics = tuple(name.strip() for name in args.metrics.split(",") if name.strip())
    for name in metrics:
        parse_metric(name)
    dataset = open_dataset(args.path)
    protocol = parse_protocol(args.protocol, source=dataset.manifest.source, split=args.split, seed=args.seed)
    protocol = dataclasses.replace(protocol, query_time_visible=args.query_time)
    out = args.json or str(baselines_file(dataset, protocol))
    check_output(out)
    results, ranks = baseline_results(
        dataset,
        protocol,
        metrics=metrics,
        tuned=True,
        tell=lambda text: say(text, file=sys.stderr),
        by=args.command_line,
    )
    if out == "-":
        say(json.dumps(results.to_json(), indent=2, ensure_ascii=False))
        return EXIT_OK
    write_results(Path(out), results, {name: [one] for name, one in ranks.items()})
    say(f"wrote {out}", file=sys.stderr)
    show_results([results], metrics, slices=args.slices)
    return EXIT_OK


def give_json(value: Any, where: str | None) -> bool:
    """Writes what `--json` asks for to its file, or prints it for "-". Whether it was printed: then nothing else is."""
    from mdrec_jax.files import write_json

    if where == "-":
        say(json.dumps(value, indent=2, ensure_ascii=False))
    elif where is not None:
        write_json(Path(where), value)
        say(f"wrote {where}", file=sys.stderr)
    return where == "-"


def show_results(results: list[Any], columns: tuple[str, ...] = (), *, slices: bool = False) -> None:
    """Prints the tables of some results on standard output."""

    from mdrec_jax.evaluate.table import results_tables

    shown = console()
    for table in results_tables(results, columns=columns):
        shown.print(table)
    if slices:
        for table in results_tables(results, columns=columns, slices=True):
            shown.print(table)
