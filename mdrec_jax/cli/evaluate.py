"""`mdrec evaluate`: a trained run's table of results, the baselines beside it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.cli.baselines import add_protocol_options, give_json, show_results
from mdrec_jax.errors import EXIT_OK
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console, say

DESCRIPTION = """Rank the held-out items of the test split with the best checkpoint of a run, as validation chose it.
Several runs that differ in their seed are averaged. Each look at test is recorded in the run's folder
(test_looks.jsonl; `mdrec inspect RUN` shows them)."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="evaluate trained runs", description=DESCRIPTION)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, one a seed")
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the one the run was trained on)")
    add_protocol_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of drawn candidates")
    parser.add_argument("--slices", action="store_true", help="also by history length, warm and cold targets, and day")
    parser.add_argument(
        "--cooccurrence-weight", type=float, metavar="W", help="another weight of the co-occurrence bonus on the scores"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--ensemble",
        action="store_true",
        help="also a row of the runs as one: the mean of their scores, query by query",
    )
    what.add_argument(
        "--probes",
        action="store_true",
        help="instead of the table: what the shared and the specific code give away, and how each ranks by itself",
    )
    parser.add_argument("--json", metavar="FILE", help="where the results file goes; - = standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.evaluate.protocol import parse_protocol
    from mdrec_jax.train.evaluation import evaluate_runs, evaluation_file, verdict_on, write_evaluation
    from mdrec_jax.train.runs.run_folder import RunFolder, read_data
    from mdrec_jax.train.trained import load_run, with_cooccurrence

    check_output(args.json)
    parse_protocol(args.protocol, split=args.split, seed=args.seed)
    dataset = open_dataset(args.data) if args.data else None
    runs = [load_run(path, dataset) for path in args.runs]
    if args.cooccurrence_weight is not None:
        runs = [with_cooccurrence(one, args.cooccurrence_weight) for one in runs]
    if args.probes:
        return _probe(runs, args)
    results, ranks = evaluate_runs(
        runs, args.protocol, args.split, seed=args.seed, ensemble=args.ensemble, by=args.command_line
    )
    if args.json == "-":
        say(json.dumps(results.to_json(), indent=2, ensure_ascii=False))
        return EXIT_OK
    folder = RunFolder(_home(args.runs))
    path = Path(args.json) if args.json else evaluation_file(folder, args.split, args.protocol)
    if not args.json and args.cooccurrence_weight is not None:
        path = path.with_stem(f"{path.stem}-cooccurrence-{args.cooccurrence_weight:g}")
    if args.ensemble and not args.json:
        path = path.with_stem(f"{path.stem}-ensemble")
    if dataset is not None and dataset.hash != read_data(folder)[1]:
        say("this is not the data set of the run: it may have been trained on some of the targets", file=sys.stderr)
        path = path if args.json else path.with_stem(f"{path.stem}-data-{dataset.hash[:12]}")
    write_evaluation(folder, results, ranks, path)
    say(f"wrote {path}", file=sys.stderr)
    show_results([results], slices=args.slices)
    say(verdict_on(runs, results, ranks))
    return EXIT_OK


def _home(runs: list[Path]) -> Path:
    """Whose folder `evaluation` holds the results: the run's, or that of the folder that several runs stand in."""
    parents = {path.resolve().parent for path in runs}
    return runs[0].parent if len(runs) > 1 and len(parents) == 1 else runs[0]


def _probe(runs: list[Any], args: argparse.Namespace) -> int:
    """A table for each run; the file holds a list with what each of them gave."""

    from mdrec_jax.evaluate.probes.probes import probes_table
    from mdrec_jax.train.evaluation import probe_run
    from mdrec_jax.train.runs.run_folder import RunFolder

    found = [probe_run(run, args.protocol, args.split, seed=args.seed, by=args.command_line) for run in runs]
    values = [{"run": str(path), **one.to_json()} for path, one in zip(args.runs, found, strict=True)]
    file = RunFolder(args.runs[0]).evaluation / f"{args.split}-probes.json"
    for one in () if give_json(values, args.json or str(file)) else found:
        console().print(probes_table(one))
    return EXIT_OK
