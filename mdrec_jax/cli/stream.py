"""`mdrec stream`: recommendations from new events alone, with a file that keeps all users' states from call to call."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrec_jax.cli.recommend import add_bad_rows, add_columns, given_columns
from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

if TYPE_CHECKING:
    from mdrec_jax.data.dataset import Dataset
    from mdrec_jax.data.manifest import Manifest

DESCRIPTION = """Read new events, bring the states of their users up to date, and write the best items for them. With
--state a call goes on where the last one ended; what it costs depends on the new events alone. Events that were read
already change nothing, so that files may overlap and a call may be made again. The model has to have rotary positions
(--model.positions rotary) or none."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("stream", help="recommend from new events, event by event", description=DESCRIPTION)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--events", type=Path, required=True, metavar="FILE", help="new events of users, known or not")
    parser.add_argument("--state", type=Path, metavar="FILE", help="a .npz file of states, read and written anew")
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the one the run was trained on)")
    parser.add_argument(
        "--from", dest="init_from_dataset", type=Path, nargs="?", const=True, metavar="DATASET",
        help="users without a state start with their events in this dataset (default: the run's, or --data)",
    )  # fmt: skip
    parser.add_argument(
        "--late", choices=("refuse", "skip"), default="refuse", help="new events that are older than what was read"
    )
    parser.add_argument(
        "--time-unit", choices=("s", "ms", "us", "ns", "iso"), help="how times are written (default: s)"
    )
    add_bad_rows(parser, "the events")
    parser.add_argument("--domain", metavar="D", help="recommend from this domain (default: from each)")
    parser.add_argument("--k", type=int, default=10, help="items for each user and domain")
    parser.add_argument("--keep-seen", action="store_true", help="also recommend what the user had already")
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE", help="a looping model stops a token with this share of weight left"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .csv, .jsonl or .parquet file")
    add_columns(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.models.streaming.step import state_bytes
    from mdrec_jax.serve.recommendations import check_output
    from mdrec_jax.serve.stream import stream_files
    from mdrec_jax.train.trained import load_run

    check_output(args.out, args.events, args.state)
    if args.tolerance is not None and not 0 <= args.tolerance < 1:
        raise InputError("option out of range", column="--tolerance", found=args.tolerance, expected="in [0, 1)")
    start = args.init_from_dataset
    trained = load_run(args.run_folder, _dataset(args.data, start if isinstance(start, Path) else None))
    setup = trained.setup
    counts = stream_files(
        trained.scorer,
        setup.dataset,
        run_name(setup.config.hash(), trained.step, args.run_folder, setup.dataset.manifest),
        args.events,
        args.out,
        state=args.state,
        init_from_dataset=start is not None,
        late=args.late,
        domain=args.domain,
        k=args.k,
        keep_seen=args.keep_seen,
        time_unit=args.time_unit,
        columns=given_columns(args),
        skip_bad_rows=args.bad_rows == "skip",
        tolerance=args.tolerance,
    )
    for reason, number in counts.items():
        say(f"{reason}: {number:,}", file=sys.stderr)
    parts = state_bytes(setup.model)
    held = ", ".join(f"{what.replace('_', ' ')} {size:,}" for what, size in parts.items())
    say(f"state of a user: {sum(parts.values()):,} bytes ({held})", file=sys.stderr)
    written = [args.out] if args.state is None else [args.out, args.state]
    say(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return EXIT_OK


def _dataset(data: Path | None, seeds: Path | None) -> "Dataset | None":
    """The data set that is named by either option, or by both.

    Raises:
        InputError: they name two.
    """
    from mdrec_jax.data.dataset import open_dataset

    opened = {option: open_dataset(path) for option, path in (("--data", data), ("--from", seeds)) if path is not None}
    if len({dataset.hash for dataset in opened.values()}) > 1:
        raise InputError("two data sets", column="--from", found=seeds, expected=f"the same as --data: {data}")
    return next(iter(opened.values()), None)


def run_name(config: str, step: int, run: Path, served: "Manifest") -> str:
    """What tells a run's states from those of others. A data set that extends the run's own goes on with them."""
    from mdrec_jax.train.runs.run_folder import RunFolder, read_data

    trained_on = read_data(RunFolder(run))[1]
    data = served.hash if served.items_of(trained_on) is None else trained_on
    return f"config {config}, step {step}, data {data}, time origin {served.time_origin}"
