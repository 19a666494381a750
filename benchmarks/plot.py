"""Bars of one metric from results files, with 95 % intervals, baselines in grey and published figures hatched.

    python benchmarks/plot.py --out benchmarks/results.png [--metric ndcg@10] TITLE=RESULTS[,RESULTS...] ...
        [--published TITLE:NAME=VALUE ...] [--domain TITLE:NAME ...]

A panel for each title; rows of the domain `all` where no other is named (`macro`: the domains' mean). NAME@RESULTS
calls that file's model NAME. Needs the extra `report`.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from mdrec_jax.evaluate.results import BASELINES, Results, read_results

ACROSS = 2
"""Panels in a line, at most."""
OURS, BASELINE, PUBLISHED, BOUND = "#1f6f8b", "#b8bec4", "#ffffff", "#dfe6d8"


type Bar = tuple[str, float, float, float, str]
"""(name, value, low, high, colour)."""


def bars(results: list[tuple[str, Results]], domain: str, metric: str, published: dict[str, float]) -> list[Bar]:
    """Lowest first; equal names of several files are shown once."""
    rows: dict[str, Bar] = {}
    for name, one in results:
        for row in one.rows:
            if row.domain == domain:
                low, high = row.interval.get(metric, (row.metrics[metric],) * 2)
                colour = BASELINE if row.model in BASELINES else BOUND if row.model == "oracle" else OURS
                seeds = f" ({len(one.seeds)} seeds)" if colour == OURS and len(one.seeds) > 1 else ""
                shown = name if name and colour == OURS else row.model
                rows[shown] = (shown + seeds, row.metrics[metric], low, high, colour)
    for name, value in published.items():
        rows[name] = (name, value, value, value, PUBLISHED)
    return sorted(rows.values(), key=lambda row: row[1])


def panel(axes: Axes, title: str, rows: list[Bar], metric: str) -> None:
    for place, (_, value, low, high, colour) in enumerate(rows):
        hatch = "///" if colour == PUBLISHED else None
        axes.barh(place, value, color=colour, edgecolor="#5a6570", linewidth=0.7, hatch=hatch, height=0.68)
        if high > low:
            axes.plot([low, high], [place, place], color="#20262b", linewidth=1.4)
        axes.text(max(value, high), place, f"  {value:.4f}".replace("0.", "."), va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(0, 1.2 * max(row[3] for row in rows))
    axes.set_xlabel(metric.upper(), fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", nargs="+", metavar="TITLE=RESULTS,...")
    parser.add_argument("--published", nargs="*", default=[], metavar="TITLE:NAME=VALUE")
    parser.add_argument("--domain", nargs="*", default=[], metavar="TITLE:NAME")
    parser.add_argument("--metric", default="ndcg@10")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    domains = dict(entry.rsplit(":", 1) for entry in args.domain)
    columns = min(ACROSS, len(args.panels))
    lines = -(-len(args.panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.8 * columns, 2.7 * lines), squeeze=False)
    for place in axes.flat[len(args.panels) :]:
        place.remove()
    for place, given in zip(axes.flat, args.panels, strict=False):
        title, _, files = given.partition("=")
        published = {}
        for entry in args.published:
            where, _, rest = entry.partition(":")
            name, _, value = rest.rpartition("=")
            if where == title:
                published[name] = float(value)
        named = (file.rpartition("@") for file in files.split(","))
        results = [(name, read_results(Path(file))) for name, _, file in named]
        panel(place, title, bars(results, domains.get(title, "all"), args.metric, published), args.metric)
    figure.tight_layout(w_pad=2.5)
    figure.savefig(args.out, dpi=110)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
