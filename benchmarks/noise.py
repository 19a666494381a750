"""The noise curve: NDCG@10 against the share of training events whose item was replaced, with and without denoising.

    python benchmarks/noise.py --data data/synthetic --out runs/noise [--preset quickstart] [--shares 0,.2,.4]
        [--seeds 0,1,2] [--epochs N] [--plot benchmarks/noise.png]

The loss allows for a share of noise of its own (`loss.noise`); at every share the one that is best on the validation
split, seed 0, trains the other seeds too. Figures are of the test split, full ranking; differences from the plain loss
are paired over seeds and users both. Run folders are kept in --out, and the same command goes on where it was stopped.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.evaluate.compare import Difference, compare
from mdrec_jax.evaluate.protocol import Split
from mdrec_jax.evaluate.results import BASELINES
from mdrec_jax.experiments.runs import finish, place_of, ranks_of, seed_folder

PROTOCOL, METRIC = "full", "ndcg@10"
WAYS = {"plain": (0.0,), "mixture": (0.3, 0.5, 0.7)}
"""`loss.noise`: the shares that are tried."""
COLOURS = {"plain": "#5a6570", "mixture": "#8a4f7d"}


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs of one preset on one data set."""

    config: RunConfig
    dataset: Dataset
    out: Path
    seeds: tuple[int, ...]

    def run(self, share: float, setting: float, seed: int, splits: Sequence[Split]) -> Path:
        """The folder of a run that is trained and evaluated."""
        name = f"noise-{share:g}/allowed-{setting:g}"
        path = seed_folder(self.out / name, seed)
        config = replace(self.config, batching={"noise": {"share": share}}, loss={"noise": setting}, seed=seed)
        finish(config, self.dataset, path, splits, (PROTOCOL,), by="benchmarks/noise.py")
        return path

    def value(self, paths: Sequence[Path], split: str) -> float:
        """Mean over the runs of the metric."""
        where, _ = place_of(self.config.train.metric)
        rows = [
            row
            for path in paths
            for row in ranks_of([path], split, PROTOCOL)[0].rows
            if row.domain == where and row.model not in BASELINES
        ]
        return sum(row.metrics[METRIC] for row in rows) / len(rows)

    def chosen(self, share: float, settings: Sequence[float]) -> tuple[float, list[Path]]:
        """The best setting on the validation split, and its runs."""
        first = {setting: self.run(share, setting, self.seeds[0], ("validation",)) for setting in settings}
        best = max(first, key=lambda setting: self.value([first[setting]], "validation"))
        return best, [self.run(share, best, seed, ("validation", "test")) for seed in self.seeds]

    def against(self, paths: Sequence[Path], plain: Sequence[Path]) -> Difference:
        """The paired difference on the test split."""
        where, _ = place_of(self.config.train.metric)
        ours, theirs = (ranks_of(list(each), "test", PROTOCOL)[1] for each in (paths, plain))
        # Runs of one seed start from the same parameters and read the same batches: only the loss differs.
        every = compare(ours, theirs, (METRIC,), domains=self.dataset.manifest.domains, paired_seeds=True)
        return next(one for one in every if one.where == where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--shares", default="0,.2,.4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=float, help="instead of the preset's")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    config = load_preset(args.preset)
    if args.epochs:
        config = replace(config, train={"epochs": args.epochs})
    study = Study(config, open_dataset(args.data), args.out, tuple(map(int, args.seeds.split(","))))
    shares, curves = [float(share) for share in args.shares.split(",")], {way: [] for way in WAYS}
    print("| replaced | loss | e | validation | test NDCG@10 | minus plain (95 %) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for share in shares:
        plain: list[Path] = []
        for way, settings in WAYS.items():
            setting, paths = study.chosen(share, settings)
            plain = plain or paths
            gap = study.against(paths, plain)
            curves[way].append(study.value(paths, "test"))
            lead = "" if way == "plain" else f"{gap.difference:+.4f} ({gap.interval[0]:+.4f} {gap.interval[1]:+.4f})"
            lead += " over users, one seed: no claim" if gap.one_seed and lead else ""
            shown = f"{study.value(paths, 'validation'):.4f} | {curves[way][-1]:.4f}"
            print(f"| {share:g} | {way} | {setting:g} | {shown} | {lead} |", flush=True)
    if args.plot:
        figure, axes = plt.subplots(figsize=(4.6, 3.0))
        for way, values in curves.items():
            axes.plot(shares, values, "o-", color=COLOURS[way], label=way, markersize=4)
        axes.set_xlabel("share of training events replaced", fontsize=9)
        axes.set_ylabel("test NDCG@10", fontsize=9)
        axes.legend(frameon=False, fontsize=8.5)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(args.plot, dpi=110)


if __name__ == "__main__":
    main()
