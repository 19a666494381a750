"""`mdrec train`: from a preset and a prepared dataset to a run folder with a table of results."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

if TYPE_CHECKING:
    from mdrec_jax.config import RunConfig

SYNTHETIC = Path("data/synthetic")
DESCRIPTION = """Train a model and evaluate it. Any field of the configuration can be set: --train.epochs 10
--optim.dense.learning-rate 1e-3 (see `mdrec train PRESET --show` for all of them)."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train a model on a prepared dataset", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("preset", nargs="?", default="mdrec", help="a preset, or a .py file with config()")
    parser.add_argument("--data", type=Path, help=f"a prepared dataset (default: the synthetic world in {SYNTHETIC})")
    parser.add_argument(
        "--run", type=Path, dest="run_folder", help="the run's folder (default: the next free runs/PRESET-N)"
    )
    parser.add_argument("--smoke", action="store_true", help="the preset's small form: a minute on a laptop")
    parser.add_argument("--show", action="store_true", help="print the configuration's fields and stop")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the run in --run")
    start.add_argument("--init-from", type=Path, metavar="RUN", help="start from the best weights of another run")
    parser.add_argument("--seeds", help="train one run a seed (0,1,2) and report their mean")
    parser.set_defaults(run=run, takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    config = configure(args)
    if args.show:
        return _show(config)
    data = args.data or synthetic_world()
    folder = args.run_folder or _next_free(Path("runs"), Path(args.preset).stem)
    if args.resume and args.run_folder is None:
        raise InputError("--resume needs to know which run", column="--run", expected="the folder of the run")
    if not args.seeds:
        return _train_and_evaluate({folder: config}, data, args)
    seeds = parse_seeds(args.seeds)
    return _train_and_evaluate({folder / f"seed-{s}": dataclasses.replace(config, seed=s) for s in seeds}, data, args)


def _train_and_evaluate(runs: "dict[Path, RunConfig]", data: Path, args: argparse.Namespace) -> int:
    from mdrec_jax.cli.baselines import show_results
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.train.run import evaluate_runs, fit, load_run, write_evaluation
    from mdrec_jax.train.run_folder import RunFolder

    dataset = open_dataset(data)
    for folder, config in runs.items():
        say(f"run folder: {folder}", file=sys.stderr)
        # Of several seeds, some may have run before the kill that is resumed from, and some not.
        resume = args.resume and (len(runs) == 1 or RunFolder(folder).holds_a_run())
        fit(config, dataset, RunFolder(folder), resume=resume, init_from=args.init_from)
    trained = [load_run(folder, dataset) for folder in runs]
    first, config = next(iter(runs.items()))
    for protocol in dict.fromkeys(("full", config.train.protocol)):
        results, ranks = evaluate_runs(trained, protocol)
        path = write_evaluation(RunFolder(first if len(runs) == 1 else first.parent), results, ranks)
        show_results([results])
        say(f"wrote {path}", file=sys.stderr)
    return EXIT_OK


def configure(args: argparse.Namespace) -> "RunConfig":
    """The preset with the command line's overrides; a resumed run starts from its own `config.json`."""
    import tyro

    from mdrec_jax.config import RunConfig, load_preset, read_config

    if args.resume and args.run_folder is not None:
        first = args.run_folder / f"seed-{parse_seeds(args.seeds)[0]}" if args.seeds else args.run_folder
        base = read_config(first / "config.json")
    else:
        base = load_preset(args.preset, smoke=args.smoke)
    if not args.overrides:
        return base
    return tyro.cli(
        tyro.conf.AvoidSubcommands[RunConfig], default=base, args=args.overrides, prog=f"mdrec train {args.preset}"
    )


def synthetic_world() -> Path:
    """The synthetic dataset, made once."""
    if not (SYNTHETIC / "manifest.json").exists():
        from mdrec_jax.data.synthetic import SyntheticConfig, write_world

        say(f"no --data given: making the synthetic world in {SYNTHETIC}", file=sys.stderr)
        write_world(SyntheticConfig(), SYNTHETIC)
    else:
        say(f"no --data given: using the synthetic world in {SYNTHETIC}", file=sys.stderr)
    return SYNTHETIC


def _next_free(parent: Path, name: str) -> Path:
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that `0,1,2` names. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        expected = "whole numbers from 0, each once: 0,1,2"
        raise InputError("not a list of seeds", column="--seeds", found=text, expected=expected)
    return tuple(map(int, parts))


def _show(config: "RunConfig") -> int:
    from mdrec_jax.codec import flatten

    for name, value in flatten(dataclasses.asdict(config)).items():
        say(f"--{name.replace('_', '-')} {value}")
    return EXIT_OK
