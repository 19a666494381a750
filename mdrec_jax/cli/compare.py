"""`mdrec compare`: is one model better than another, and could it be chance."""

import argparse
from pathlib import Path
from typing import Any

from mdrec_jax.cli.baselines import give_json
from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console

DESCRIPTION = """Compare two models on the same questions, by a paired bootstrap over seeds and users. Give
the run folders (or results files) of the first model, one a seed, then --with and those of the second. Two models of
one file are told apart with --model and --with-model. Of a run folder, what `mdrec evaluate` wrote there is read."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("compare", help="compare two models over seeds and users", description=DESCRIPTION)
    parser.add_argument(
        "first", type=Path, nargs="+", metavar="RUN", help="run folders, or results files with ranks beside them"
    )
    parser.add_argument("--with", type=Path, nargs="+", metavar="RUN", dest="second", help="default: the same")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="of the results of run folders")
    parser.add_argument("--protocol", default="full", metavar="NAME", help="the same (default: full)")
    parser.add_argument("--model", metavar="NAME", help="the first model's name in its files")
    parser.add_argument("--with-model", metavar="NAME", help="the second model's")
    parser.add_argument("--metrics", metavar="A,B", default="hr@10,ndcg@10,mrr")
    parser.add_argument("--slices", action="store_true", help="by history length, warm and cold targets, and day")
    parser.add_argument(
        "--paired-seeds",
        action="store_true",
        help="the runs of a seed are alike but for their loss, and are drawn in pairs",
    )
    parser.add_argument("--json", metavar="FILE", help="write the differences; - = standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.evaluate.compare import check_comparable, compare, load_runs
    from mdrec_jax.evaluate.metrics import parse_metric
    from mdrec_jax.evaluate.protocol import parse_protocol
    from mdrec_jax.evaluate.results import BASELINES, results_file

    names = tuple(name.strip() for name in args.metrics.split(",") if name.strip())
    if not names:
        raise InputError(
            "nothing to compare", column="--metrics", found=args.metrics, expected="names such as mrr,hr@10"
        )
    for name in names:
        parse_metric(name)
    parse_protocol(args.protocol)
    check_output(args.json)
    first_paths, second_paths = (
        [results_file(path, args.split, args.protocol) for path in paths]
        for paths in (args.first, args.second or args.first)
    )
    first_name, first_results, first = load_runs(first_paths, args.model)
    second_name, second_results, second = load_runs(second_paths, args.with_model)
    check_comparable(first_results, second_results, second_paths[0])
    differences = compare(
        first,
        second,
        names,
        domains=first_results.domains,
        slices=args.slices,
        paired_seeds=args.paired_seeds,
        deterministic=(first_name in BASELINES, second_name in BASELINES),
    )
    answer = {
        "first": {"model": first_name, "config": first_results.config, "runs": len(first)},
        "second": {"model": second_name, "config": second_results.config, "runs": len(second)},
        "protocol": first_results.protocol.to_json(),
        "dataset": first_results.dataset,
        "differences": [one.to_json() for one in differences],
    }
    if not give_json(answer, args.json):
        _show(differences, (first_name, len(first)), (second_name, len(second)), first_results.protocol)
    return EXIT_OK


def _show(differences: list[Any], first: tuple[str, int], second: tuple[str, int], protocol: Any) -> None:
    from rich import box
    from rich.table import Table

    from mdrec_jax.evaluate.protocol import describe

    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("where", overflow="fold")
    table.add_column("metric", no_wrap=True)
    alone = any(one.one_seed for one in differences)
    spread = "95 % over users" if alone else "95 %"
    for name in ("queries", "first", "second", "difference", spread, "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in differences:
        means = (f"{value:.4f}".removeprefix("0") for value in (one.first, one.second))
        low, high = (f"{value:+.4f}" for value in one.interval)
        cells = (f"{one.queries:,}", *means, f"{one.difference:+.4f}", f"{low} {high}", f"{one.p_value:.3f}")
        table.add_row(one.where, one.metric, *cells, style="bold" if one.significant else "")
    told = "one seed: no claim" if alone else "95 % over users and seeds; bold: the interval leaves 0 out"
    shown = console()
    shown.print(f"first: {first[0]} ({first[1]} runs), second: {second[0]} ({second[1]} runs)", style="bold")
    shown.print(describe(protocol), table, told, sep="\n")
