"""Tables of text, for a terminal and for a Markdown file."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from mdrec_jax.evaluate.compare import Difference
from mdrec_jax.evaluate.protocol import describe
from mdrec_jax.evaluate.results import BASELINES, Row
from mdrec_jax.experiments.ablation import Ablation, Measured, Variant
from mdrec_jax.experiments.costs import Cost
from mdrec_jax.experiments.runs import place_of
from mdrec_jax.terminal import console, plain


@dataclass(frozen=True)
class TextTable:
    """
    Args:
        title: above it.
        columns: the first is text, the others are numbers.
        rows: of as many cells as there are columns.
        notes: below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def markdown(table: TextTable) -> str:
    """The table as GitHub shows it."""
    rows = [[plain(cell).replace("|", "\\|") for cell in cells] for cells in (table.columns, *table.rows)]
    lines = [rows[0], ["---", *("---:" for _ in table.columns[1:])], *rows[1:]]
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join((f"**{table.title}**", body, *table.notes)) + "\n"


def show(table: TextTable) -> None:
    """Print the table on standard output: as wide as the terminal, or as it needs where there is none."""
    screen = console()
    if not screen.is_terminal:
        screen = console(width=200)
    shown = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for number, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if number else "left")
    for cells in table.rows:
        shown.add_row(*cells)
    screen.print(table.title, style="bold", highlight=False)
    screen.print(shown)
    for note in table.notes:
        screen.print(note, style="dim", highlight=False)


def figure(value: float, interval: tuple[float, float]) -> str:
    """A metric with its interval: `.1234 [.1100 .1300]`."""
    return f"{short(value)} [{' '.join(map(short, interval))}]"


def short(value: float) -> str:
    """Four decimals and no leading zero, as published tables have them."""
    return f"{value:.4f}".removeprefix("0")


COSTS = ("dense", "table", "GFLOP/step")


def plan_table(rows: Sequence[Variant]) -> TextTable:
    """What an ablation would run."""
    cells = (
        (row.name, *cost_cells(row.cost), f"{row.cost.flops / rows[0].cost.flops:.3f}", row.change) for row in rows
    )
    return TextTable("what is run", ("variant", *COSTS, "of full", "change"), tuple(cells), (_COST_NOTE,))


def ablation_table(table: Ablation) -> TextTable:
    """The figures of the metric that checkpoints are chosen by."""
    metric, splits = table.selection, tuple(table.baselines)
    figures = (f"{split} {metric}" for split in splits)
    columns = ("variant", *COSTS, "steps", "targets/s", *figures, f"{splits[-1]}, minus full")
    baselines = [
        (f"[{name}]", *("" for _ in range(5)), *(_figure(table.baselines[s], name, metric) for s in splits), "")
        for name in BASELINES
        if any(row.model == name for row in table.baselines[splits[-1]])
    ]
    rows = [_row(one, metric) for one in table.measured]
    changes = [f"{one.variant.name}: {one.variant.change}" for one in table.measured if one.variant.change]
    seeds = ", ".join(map(str, table.seeds))
    drawn = "users and seeds; * leaves 0 out" if len(table.seeds) > 1 else "users; one seed: no claim"
    notes = (
        *(("; ".join(changes),) if changes else ()),
        f"data set {table.dataset[:12]}, seeds {seeds}, checkpoints chosen by validation {metric}. Brackets: 95 %, "
        f"bootstrap over {drawn}.",
        _COST_NOTE,
    )
    return TextTable(describe(table.protocol), columns, (*baselines, *rows), notes)


_COST_NOTE = (
    "dense, table: parameters. FLOPs of a training step: XLA's count, loops as often as they run. "
    "The controls are all off with the cost of full: deeper, in FLOPs a step; longer, in FLOPs of all steps; wider, in "
    "dense parameters."
)


def cost_cells(cost: Cost) -> tuple[str, str, str]:
    giga = cost.flops / 1e9
    return f"{cost.dense:,}", f"{cost.table:,}", f"{giga:.3g}" if giga < 1000 else f"{giga:,.0f}"


def _row(one: Measured, metric: str) -> tuple[str, ...]:
    domain, name = place_of(metric)
    gap = next((d for d in one.differences if (d.where, d.metric) == (domain, name)), None)
    figures = (_figure(rows, one.variant.name, metric) for rows in one.rows.values())
    return (
        one.variant.name,
        *cost_cells(one.variant.cost),
        f"{one.steps:,.0f}",
        f"{one.targets_per_second:,.0f}",
        *figures,
        "" if gap is None else _difference(gap),
    )


def _figure(rows: Sequence[Row], model: str, metric: str) -> str:
    domain, name = place_of(metric)
    row = next(row for row in rows if (row.model, row.domain) == (model, domain))
    if name not in row.metrics:  # baselines are measured by the usual metrics
        return "-"
    return figure(row.metrics[name], row.interval[name])


def _difference(gap: Difference) -> str:
    signed = (f"{value:+.4f}".replace("0.", ".", 1) for value in (gap.difference, *gap.interval))
    value, low, high = signed
    return f"{value} [{low} {high}]" + ("*" if gap.significant else "")
