"""The noise curve: NDCG@10 against the share of training events whose item was replaced, with and without denoising.

    python benchmarks/noise.py --data data/synthetic --out runs/noise [--preset quickstart] [--shares 0,.2,.4]
        [--seeds 0,1,2] [--epochs N] [--plot benchmarks/noise.png]

The loss allows for a share of noise of its own (`loss.noise`); at every share the one that is best on the validation
split, seed 0, trains the other seeds too. Figures are of the test split, full ranking; differences from the plain loss
are paired over seeds and users both. Run folders are kept in --out, and the same command goes on where it was stopped.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from study import Fields, Study

from mdrec_jax.config import load_preset, replace
from mdrec_jax.data.dataset import open_dataset

WAYS = {"plain": (0.0,), "mixture": (0.3, 0.5, 0.7)}
"""`loss.noise`: the shares that are tried."""
COLOURS = {"plain": "#5a6570", "mixture": "#8a4f7d"}


def of(share: float, allowed: float) -> Fields:
    """The fields of a run in which a share of the events is replaced, and the loss allows for another."""
    return {"batching.noise.share": share, "loss.noise": allowed}


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
            fields = study.chosen([of(share, setting) for setting in settings])
            paths = [study.run(fields, seed, ("validation", "test")) for seed in study.seeds]
            plain = plain or paths
            gap = study.against(paths, plain, "test", paired=True)
            curves[way].append(study.value(paths, "test"))
            lead = "" if way == "plain" else f"{gap.difference:+.4f} ({gap.interval[0]:+.4f} {gap.interval[1]:+.4f})"
            lead += " over users, one seed: no claim" if gap.one_seed and lead else ""
            shown = f"{study.value(paths, 'validation'):.4f} | {curves[way][-1]:.4f}"
            print(f"| {share:g} | {way} | {fields['loss.noise']:g} | {shown} | {lead} |", flush=True)
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
