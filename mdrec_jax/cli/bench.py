"""`mdrec bench`: how fast a run's input, step and evaluation are on this machine, and the kernels by themselves."""

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdrec_jax.cli.baselines import give_json
from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.files import check_output
from mdrec_jax.terminal import console, say

WHAT = ("input", "step", "train", "evaluate")
DESCRIPTION = """Time a run's parts and write nothing: input (batches alone), step (the compiled step alone), train
(both, as a run has them), evaluate (ranks over the whole catalogue). Any field of the configuration can be set, as in
`mdrec train`. `mdrec bench kernels`: every operation of mdrec_kernels beside its naive form, each form's time, share of
what the machine can do at most, and memory; no data set is read."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="time input, step and evaluation", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "preset", nargs="?", default="quickstart", help="a preset, or a .py file with config(), or kernels"
    )
    parser.add_argument("--part", choices=(*WHAT, "all"), default="all", help="what is timed (default: all)")
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the synthetic world)")
    parser.add_argument("--smoke", action="store_true", help="the preset's small form")
    parser.add_argument("--rounds", type=int, default=40, help="batches that are timed (default: 40)")
    parser.add_argument("--only", action="append", metavar="OPERATION", help="of the kernels, this one")
    parser.add_argument("--all-shapes", action="store_true", help="kernels at all their shapes (default: the first)")
    parser.add_argument("--json", metavar="FILE", help="write the figures and the machine; - = standard output")
    parser.set_defaults(run=run, takes_overrides=True, resume=False)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.cli.train import configure, synthetic_world
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.train.bench import bench
    from mdrec_jax.train.setup import Setup

    if args.rounds < 1:
        raise InputError("nothing to time", column="--rounds", found=args.rounds, expected=">= 1")
    check_output(args.json)
    if args.preset == "kernels":
        return _kernels(args)
    setup = Setup.of(configure(args), open_dataset(args.data or synthetic_world()))
    speeds = bench(setup, WHAT if args.part == "all" else (args.part,), args.rounds)
    record = {
        "config": setup.config.hash(),
        "dataset": setup.dataset.hash,
        **_machine(),
        "speeds": [asdict(one) for one in speeds],
    }
    if not give_json(record, args.json):
        _show(speeds, record)
    return EXIT_OK


def _kernels(args: argparse.Namespace) -> int:
    from mdrec_kernels import bench

    known = bench.operations()
    for name in args.only or ():
        if name not in known:
            raise InputError("no such operation", column="--only", found=name, expected=", ".join(known))
    with redirect_stdout(sys.stderr if args.json == "-" else sys.stdout):
        rows = bench.run_all(args.only or known, all_shapes=args.all_shapes, rounds=args.rounds)
    give_json({**_machine(), **bench.record(rows)}, args.json)
    return EXIT_OK


def _machine() -> dict[str, Any]:
    import os
    import platform
    from importlib.metadata import version

    import jax

    return {
        "devices": [str(device.device_kind) for device in jax.devices()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("mdrec-jax", "jax", "jaxlib")},
    }


def _show(speeds: list[Any], record: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("part", "a second", "ms a round", "rounds", "first, s", "peak MiB"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for one in speeds:
        rate = f"{one.per_second:,.0f} {one.unit}"
        cells = (f"{one.milliseconds:,.1f}", str(one.rounds), f"{one.first_seconds:.1f}", f"{one.peak_mib:,.0f}")
        table.add_row(one.part, rate, *cells)
    console().print(table)
    devices, versions = record["devices"], record["versions"]
    say(
        f"{len(devices)} x {devices[0]}, {record['cores']} cores, {record['machine']}, jax {versions['jax']}; "
        f"config {record['config'][:12]}, data set {record['dataset'][:12]}"
    )
