"""Tables and a plot of what a model's layers did with events."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.probes.routing_means import Routing, RoutingRow
from mdrec_jax.files import replacing

BY = (("domain",), ("event",), ("gap",), ("history",))
COLOURS = ("#9cc3d5", "#1f6f8b", "#20343c", "#c2702d", "#6b8f3a", "#9aa3ab")


def routing_tables(routing: Routing) -> Iterator[Table]:
    """Mean passes by layer, domain and history length; then for each router its choices' shares, layers together."""
    for view in _views(routing):
        loops = [row for row in routing.rows if (row.view, row.what) == (view, "loops")]
        if loops:
            yield _loops(view, [row for row in loops if tuple(row.where) == ("domain", "history")])
        for what in ("mixers", "experts"):
            rows = [row for row in routing.rows if (row.view, row.what) == (view, what) and tuple(row.where) in BY]
            if rows:
                yield _shares(view, what, rows, routing)


def _views(routing: Routing) -> list[str]:
    return sorted({row.view for row in routing.rows}, reverse=True)  # mixed, then in_domain


def _loops(view: str, rows: list[RoutingRow]) -> Table:
    spans = list(dict.fromkeys(row.where["history"] for row in sorted(rows, key=_first_number)))
    table = _table(f"{view} view: mean loops by history length", ("layer", "domain"), spans)
    for layer, domain in dict.fromkeys((row.layer, row.where["domain"]) for row in rows):
        mine = {row.where["history"]: row for row in rows if (row.layer, row.where["domain"]) == (layer, domain)}
        table.add_row(str(layer), domain, *(f"{mine[s].mean['loops']:.2f}" if s in mine else "" for s in spans))
    return table


def _first_number(row: RoutingRow) -> int:
    return int(row.where["history"].rstrip("+").split("-")[0])


def _shares(view: str, what: str, rows: list[RoutingRow], routing: Routing) -> Table:
    choices = list(rows[0].mean)
    table = _table(f"{view} view: shares of {what}, mean over layers", ("of", "events"), [*choices, "entropy"])
    entropies = [row for row in routing.rows if (row.view, row.what) == (view, f"{what}_entropy")]
    for where, events, share in _over_layers(rows):
        entropy = next(share for w, _, share in _over_layers(entropies) if w == where)[f"{what}_entropy"]
        (by, value), *_ = where
        cells = (f"{share[name]:.3f}".removeprefix("0") for name in choices)
        table.add_row(f"{by} {value}", f"{events:,}", *cells, f"{entropy:.2f}".removeprefix("0"))
    return table


def _over_layers(rows: list[RoutingRow]) -> Iterator[tuple[tuple[tuple[str, str], ...], int, dict[str, float]]]:
    """(where, events, mean over layers) of rows of one view and kind."""
    for where in dict.fromkeys(tuple(row.where.items()) for row in rows):
        mine = [row for row in rows if tuple(row.where.items()) == where]
        yield where, mine[0].events, {n: sum(row.mean[n] for row in mine) / len(mine) for n in mine[0].mean}


def _table(title: str, names: tuple[str, ...], numbers: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name == "events" else "left", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def plot_routing(routing: Routing, path: Path) -> None:
    """A picture: a row a view, with mean loops over history length and each router's shares as bars.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise InputError("a plot needs matplotlib", hint="install the extra `report`") from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    known = {row.what for row in routing.rows}
    views, panels = _views(routing), [what for what in ("loops", "mixers", "experts") if what in known]
    size = (5.5 * len(panels), 4.2 * len(views))
    figure, grid = plt.subplots(len(views), len(panels), figsize=size, squeeze=False, layout="constrained")
    for view, axes in zip(views, grid, strict=True):
        for what, one in zip(panels, axes, strict=True):
            rows = [row for row in routing.rows if (row.view, row.what) == (view, what)]
            (_draw_loops if what == "loops" else _draw_shares)(one, rows)
            one.set_title(f"{what}, {view} view")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
    plt.close(figure)


def _draw_loops(axes: Any, rows: list[RoutingRow]) -> None:
    rows = sorted((row for row in rows if tuple(row.where) == ("history",)), key=_first_number)
    for layer in sorted({row.layer for row in rows}):
        mine = [row for row in rows if row.layer == layer]
        axes.plot([r.where["history"] for r in mine], [r.mean["loops"] for r in mine], "o-", label=f"layer {layer}")
    axes.set_xlabel("events of the history so far")
    axes.set_ylabel("mean passes")
    axes.legend()


def _draw_shares(axes: Any, rows: list[RoutingRow]) -> None:
    """Stacked bars: domains, behaviour types, gaps, history lengths; layers together."""
    bars = list(_over_layers([row for row in rows if tuple(row.where) in BY]))
    labels, bottom = [f"{by}: {value}" for ((by, value), *_), _, _ in bars], [0.0] * len(bars)
    for name, colour in zip(rows[0].mean, cycle(COLOURS)):
        heights = [share[name] for _, _, share in bars]
        axes.barh(labels, heights, left=bottom, label=name, color=colour)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("share of the weight")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=6, frameon=False)
