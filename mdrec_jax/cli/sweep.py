"""`mdrec sweep`: the best values of some fields, by the validation split alone."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK, InputError
from mdrec_jax.terminal import say

DESCRIPTION = """Train a run with every combination of the values of some fields, or with some combinations drawn at
random, and order them by the validation split; the test split is never asked. Any other field can be set, as in
`mdrec train`. The same command again goes on where it was stopped; runs that are finished are not repeated."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep", help="search values of fields on the validation split", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("preset", metavar="CONFIG", help="a preset, or a .py file with config()")
    parser.add_argument(
        "--field", action="append", required=True, metavar="NAME=A,B", help="a field and the values to try; repeatable"
    )
    parser.add_argument(
        "--trials",
        default="grid",
        metavar="N",
        help="grid: all combinations; N: so many drawn at random (default: grid)",
    )
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the synthetic world)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="of the runs and the table (default: runs/sweep-CONFIG)"
    )
    parser.add_argument("--seeds", default="0", help="one run of each trial a seed (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="the preset's small form")
    parser.set_defaults(run=run, takes_overrides=True, resume=False)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.cli.train import configure, parse_seeds, synthetic_world
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.experiments.sweep import make_trials, sweep, sweep_table, sweep_to_json
    from mdrec_jax.experiments.tables import markdown, show
    from mdrec_jax.files import write_json, write_text

    config, seeds, number = configure(args), parse_seeds(args.seeds), _number(args.trials)
    data = args.data or synthetic_world()
    dataset = open_dataset(data)
    out = args.out or Path("runs") / f"sweep-{Path(args.preset).stem}"
    tried = sweep(make_trials(config, _fields(args.field), dataset, number=number), dataset, out, seeds)
    command = _command(args, data, tried[0].trial.values)
    text = sweep_table(tried, seeds, config.train.protocol)
    write_json(out / "sweep.json", sweep_to_json(tried, dataset, seeds, command))
    write_text(out / "sweep.md", markdown(text) + f"\n```bash\n{command}\n```\n")
    show(text)
    say(f"wrote {out / 'sweep.json'} and {out / 'sweep.md'}; the winner is trained by", file=sys.stderr)
    say(command)
    return EXIT_OK


def _fields(texts: list[str]) -> dict[str, list[Any]]:
    from mdrec_jax.experiments.sweep import parse_field

    fields: dict[str, list[Any]] = {}
    for name, values in map(parse_field, texts):
        if name in fields:
            raise InputError(
                "a field named twice", column="--field", found=name, expected="NAME=A,B once for each field"
            )
        fields[name] = values
    return fields


def _number(text: str) -> int:
    """Trials to draw; 0 for all."""
    if text == "grid":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise InputError("not a number of trials", column="--trials", found=text, expected="grid, or 1 or more")
    return int(text)


def _command(args: argparse.Namespace, data: Path, values: dict[str, Any]) -> str:
    """The command that trains the winner."""
    from mdrec_jax.experiments.sweep import flags

    smoke = ["--smoke"] if args.smoke else []
    words = ["mdrec", "train", args.preset, "--data", str(data), "--seeds", args.seeds, *smoke]
    return shlex.join([*words, *args.overrides, *flags(values)])
