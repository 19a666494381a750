"""What taking something away costs: the paired differences of ablations, with 95 % intervals.

    python benchmarks/plot_ablations.py --out benchmarks/ablations.png TITLE=FOLDER ...

A panel for each `mdrec ablate --out FOLDER`: figures of the metric that checkpoints were chosen by (of the test split
where the ablation was asked with --test, else of validation), minus those of the full run; coloured where the interval
over users and seeds leaves 0 out. Left of the line, the full run is better. Needs the extra `report`.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from mdrec_jax.experiments.runs import place_of

CLEAR, UNCLEAR = "#1f6f8b", "#9aa3ab"


def panel(axes: Axes, title: str, table: dict) -> None:
    where, metric = place_of(table["selection"])
    rows = []
    for one in table["tables"][0]["rows"][1:]:
        gap = next(d for d in one["minus_full"] if (d["where"], d["metric"]) == (where, metric))
        low, high = gap["interval"]
        clear = not gap["one_seed"] and not low <= 0 <= high
        rows.append((one["variant"], gap["difference"], low, high, CLEAR if clear else UNCLEAR))
    for place, (_, value, low, high, colour) in enumerate(reversed(rows)):
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color="#20262b", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(f"{metric.upper()} minus the full run's", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", nargs="+", metavar="TITLE=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(args.panels), figsize=(4.6 * len(args.panels), 2.7), squeeze=False)
    for place, given in zip(axes[0], args.panels, strict=True):
        title, _, folder = given.partition("=")
        panel(place, title, json.loads((Path(folder) / "ablation.json").read_text(encoding="utf-8")))
    figure.tight_layout(w_pad=2.0)
    figure.savefig(args.out, dpi=110)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
