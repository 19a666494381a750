"""`mdrec train`: from a preset and a prepared dataset to a run folder, its figures on validation, and a verdict."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

if TYPE_CHECKING:
    from mdrec_jax.config import RunConfig

SYNTHETIC, DEFAULT = Path("data/synthetic"), "mdrec"
DESCRIPTION = """Train a model, rank the validation targets with its best checkpoint, and say whether it is above the
best baseline. The test split is not looked at: that is `mdrec evaluate RUN`. Any field of the configuration can
be set: --train.epochs 10 --optim.dense.learning-rate 1e-3 (`mdrec train PRESET --help` tells of all of them)."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train a model on a prepared dataset", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("preset", nargs="?", help="a preset, or a .py file with config() (default: mdrec)")
    parser.add_argument(
        "--data",
        type=Path,
        help=f"a prepared dataset (default: the synthetic world in {SYNTHETIC}; with --resume, the run's own)",
    )
    parser.add_argument(
        "--run", type=Path, dest="run_folder", help="the run's folder (default: the next free runs/PRESET-N)"
    )
    parser.add_argument("--smoke", action="store_true", help="the preset's small form: a minute on a laptop")
    parser.add_argument(
        "--show", action="store_true", help="print the configuration's fields, as they may be given, and stop"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the run in --run")
    start.add_argument("--init-from", type=Path, metavar="RUN", help="start from the best weights of another run")
    parser.add_argument("--seeds", help="train one run a seed (0,1,2) and report their mean")
    parser.set_defaults(run=run, takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    config = configure(args)
    if args.show:
        return _show(config)
    if args.resume and args.run_folder is None:
        raise InputError("--resume needs to know which run", column="--run", expected="the folder of the run")
    data = args.data or (_data_of(_resumed(args)) if args.resume else synthetic_world())
    with _folder(args) as folder:
        if not args.seeds:
            return _train({folder: config}, data, args)
        seeds = parse_seeds(args.seeds)
        return _train({folder / f"seed-{s}": dataclasses.replace(config, seed=s) for s in seeds}, data, args)


def _train(runs: "dict[Path, RunConfig]", data: Path, args: argparse.Namespace) -> int:
    from mdrec_jax.cli.baselines import show_results
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.train.evaluation import evaluate_runs, verdict_on, write_evaluation
    from mdrec_jax.train.fit import fit
    from mdrec_jax.train.runs.run_folder import RunFolder
    from mdrec_jax.train.trained import load_run

    dataset = open_dataset(data)
    preset = None if args.resume else _preset_record(args, next(iter(runs.values())))
    for folder, config in runs.items():
        say(f"run folder: {folder}", file=sys.stderr)
        # Of several seeds, some may have run before the kill that is resumed from, and some not.
        resume = args.resume and (len(runs) == 1 or RunFolder(folder).holds_a_run())
        fit(config, dataset, RunFolder(folder), resume=resume, init_from=args.init_from, preset=preset)
    trained = [load_run(folder, dataset) for folder in runs]
    first, config = next(iter(runs.items()))
    results, ranks = evaluate_runs(trained, config.train.protocol, "validation")
    path = write_evaluation(RunFolder(first if len(runs) == 1 else first.parent), results, ranks)
    show_results([results])
    say(f"wrote {path}; the test split is evaluated by: mdrec evaluate {shlex.join(map(str, runs))}", file=sys.stderr)
    say(verdict_on(trained, results, ranks))
    return EXIT_OK


def _preset_record(args: argparse.Namespace, config: "RunConfig") -> dict[str, Any]:
    """What `config.json` says of the preset: its name, and the fields set otherwise, [its value, the run's]."""
    from mdrec_jax.train.runs.run_folder import differences

    changed = differences(preset_of(args).to_plain(), config.to_plain())
    changed = {name: list(values) for name, values in changed.items() if name != "seed" or not args.seeds}
    return {"name": args.preset or DEFAULT, "smoke": args.smoke, "changed": changed}


def configure(args: argparse.Namespace) -> "RunConfig":
    """The preset with the command line's fields; a resumed run starts from its own `config.json`.

    Raises:
        ConfigError: no such preset or field, or a value that a field cannot have.
        InputError: a run to resume that another preset began.
    """
    from mdrec_jax.cli.fields import apply
    from mdrec_jax.config import field_names, read_config

    base = read_config(_resumed(args) / "config.json") if args.resume and args.run_folder else preset_of(args)
    with field_names(base):
        return apply(base, args.fields)


def preset_of(args: argparse.Namespace) -> "RunConfig":
    """The preset that the command line names, as it is."""
    from mdrec_jax.config import load_preset

    return load_preset(args.preset or DEFAULT, smoke=args.smoke)


def _resumed(args: argparse.Namespace) -> Path:
    """The folder of the run to resume, or of the first of several. Refuses another preset than it was begun with."""
    from mdrec_jax.files import read_object

    folder = args.run_folder / f"seed-{parse_seeds(args.seeds)[0]}" if args.seeds else args.run_folder
    if args.preset is None or not (folder / "config.json").exists():
        return folder
    begun = read_object(folder / "config.json").get("preset")
    name = begun.get("name") if isinstance(begun, dict) else None
    if name is None:
        say(f"{folder} does not say which preset it was begun with; '{args.preset}' is not read", file=sys.stderr)
    elif name != args.preset:
        raise InputError(
            "the run was begun with another preset",
            file=folder / "config.json",
            column="preset",
            found=args.preset,
            expected=name,
            hint="a resumed run keeps its own configuration: leave the preset out",
        )
    return folder


def _data_of(folder: Path) -> Path:
    """The data set of the run that is resumed."""
    from mdrec_jax.train.runs.run_folder import RunFolder, read_data

    return read_data(RunFolder(folder))[0]


def synthetic_world() -> Path:
    """The synthetic dataset, made once."""
    if not (SYNTHETIC / "manifest.json").exists():
        from mdrec_jax.data.synthetic import SyntheticConfig, write_world

        say(f"no --data given: making the synthetic world in {SYNTHETIC}", file=sys.stderr)
        write_world(SyntheticConfig(), SYNTHETIC)
    else:
        say(f"no --data given: using the synthetic world in {SYNTHETIC}", file=sys.stderr)
    return SYNTHETIC


@contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Path]:
    """The run's folder: the one that was named, or the next free runs/PRESET-N, which is made so that nobody else who
    starts now takes it. It goes again when nothing was written into it."""
    if args.run_folder is not None:
        yield args.run_folder
        return
    number, parent, name = 1, Path("runs"), Path(args.preset or DEFAULT).stem
    parent.mkdir(exist_ok=True)
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
    try:
        yield folder
    finally:
        for made in (folder, parent):
            if not any(made.iterdir()):
                made.rmdir()


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that `0,1,2` names. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        expected = "whole numbers from 0, each once: 0,1,2"
        raise InputError("not a list of seeds", column="--seeds", found=text, expected=expected)
    return tuple(map(int, parts))


def _show(config: "RunConfig") -> int:
    from mdrec_jax.cli.fields import show_fields

    say("\n".join(show_fields(config)))
    return EXIT_OK
