"""`mdrec ablate`: what each part of a model is worth, beside controls of equal cost."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mdrec_jax.errors import EXIT_OK
from mdrec_jax.terminal import say

DESCRIPTION = """Train a run of mdrec as it is, without each of its parts, without all of them (sasrec), and three
controls of equal cost, over seeds; evaluate them on the validation split (--test: on the test split too) and write one
table. Any field of the configuration can be set, as in `mdrec train`. The same command again goes on where it was
stopped; runs that are finished are not repeated."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "ablate", help="what each part of a model is worth", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("preset", metavar="CONFIG", help="a preset of mdrec, or a .py file with config()")
    parser.add_argument("--data", type=Path, help="a prepared dataset (default: the synthetic world)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="of the runs and the table (default: runs/ablate-CONFIG)"
    )
    parser.add_argument("--seeds", default="0,1,2", help="one run of each variant a seed (default: 0,1,2)")
    parser.add_argument("--only", metavar="NAMES", help="rows beside the full run, as in all-off,all-off-longer")
    parser.add_argument(
        "--test", action="store_true", help="show the test split too; every run records that it was looked at"
    )
    parser.add_argument("--smoke", action="store_true", help="the preset's small form")
    parser.add_argument("--show", action="store_true", help="print what would be run, with its cost, and stop")
    parser.set_defaults(run=run, takes_overrides=True, resume=False)


def run(args: argparse.Namespace) -> int:
    from mdrec_jax.cli.train import configure, parse_seeds, synthetic_world
    from mdrec_jax.data.dataset import open_dataset
    from mdrec_jax.experiments.ablation import COSTS, ablate, chosen, to_json, variants
    from mdrec_jax.experiments.costs import Costs
    from mdrec_jax.experiments.tables import ablation_table, markdown, plan_table, show
    from mdrec_jax.files import write_json, write_text

    config, seeds = configure(args), parse_seeds(args.seeds)
    dataset = open_dataset(args.data or synthetic_world())
    out = args.out or Path("runs") / f"ablate-{Path(args.preset).stem}"
    say("counting parameters and FLOPs", file=sys.stderr)
    rows = variants(config, Costs(dataset, out / COSTS))
    rows = rows if args.only is None else chosen(rows, args.only.split(","))
    if args.show:
        show(plan_table(rows))
        return EXIT_OK
    splits = ("validation", "test") if args.test else ("validation",)
    tables = ablate(rows, dataset, out, seeds, splits, by=args.command_line)
    texts = [ablation_table(table) for table in tables]
    write_json(out / "ablation.json", to_json(tables))
    write_text(out / "ablation.md", "\n".join(map(markdown, texts)))
    for text in texts:
        show(text)
    say(f"wrote {out / 'ablation.json'} and {out / 'ablation.md'}", file=sys.stderr)
    return EXIT_OK
