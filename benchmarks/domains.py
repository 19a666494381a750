"""What one more domain costs: FLOPs and parameters of a training step with 2, 4, 8 and 16 domains.

    python benchmarks/domains.py [--domains 2,4,8,16] [--users 400] [--items 4800]

Planted worlds with the same number of users, of events a user and of items in all. FLOPs are those of the encoder and
the loss, by XLA's count of the compiled step, a token; the presets `quickstart` (`sasrec`) and `mdrec`.
"""

import argparse
import tempfile
from pathlib import Path

from mdrec_jax.config import load_preset
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.experiments.costs import Costs
from mdrec_jax.train.setup import Setup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default="2,4,8,16")
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--items", type=int, default=4800)
    args = parser.parse_args()
    presets = {name: load_preset(name) for name in ("quickstart", "mdrec")}
    print("| domains | sasrec, FLOPs a token | dense parameters | mdrec, FLOPs a token | dense parameters | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for domains in map(int, args.domains.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            world = SyntheticConfig(users=args.users, items=args.items // domains, domains=domains, overlap=1.0)
            dataset = write_world(world, Path(folder) / "world")
            costs = {name: Costs(dataset, Path(folder) / f"{name}.json").of(preset) for name, preset in presets.items()}
            filled = {
                name: preset.batching.rows * preset.batching.row_length * Setup.of(preset, dataset).batches.fill
                for name, preset in presets.items()
            }
        a_token = {name: cost.flops / filled[name] for name, cost in costs.items()}
        cells = " | ".join(f"{a_token[name]:,.0f} | {costs[name].dense:,}" for name in presets)
        print(f"| {domains} | {cells} | {a_token['mdrec'] / a_token['quickstart']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
