"""Results as tables for people: one table a protocol, the baselines beside the models.

Full and sampled ranking never stand in one table: a sampled figure is several times larger and orders models otherwise
(Krichene and Rendle 2020).
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mdrec_jax.evaluate.protocol import Protocol, describe
from mdrec_jax.evaluate.results import BASELINES, Results, Row

COLUMNS = ("hr@10", "ndcg@10", "mrr")
MULTI_TARGET_COLUMNS = ("recall@20", "precision@20", "ndcg@20")


def results_tables(
    results: Sequence[Results], *, columns: Sequence[str] = (), slices: bool = False, interval: str | None = None
) -> list[RenderableType]:
    """One table for each protocol and data set, full ranking first.

    Args:
        results: what to show. Equal rows (the baselines in several files) are shown once.
        columns: metrics; empty = those that suit the questions.
        slices: show the slices instead of the domains.
        interval: the metric whose 95 % interval is shown; None = the second column's.
    """
    keyed: dict[tuple[Protocol, str], list[Results]] = {}
    for one in results:
        keyed.setdefault((one.protocol, one.dataset), []).append(one)
    order = sorted(keyed, key=lambda key: key[0].sampled)
    return [_table(key[0], keyed[key], columns, slices, interval) for key in order]


def _table(
    protocol: Protocol, results: Sequence[Results], columns: Sequence[str], slices: bool, interval: str | None
) -> RenderableType:
    rows = list(dict.fromkeys(_Shown(row, one) for one in results for row in (one.slices if slices else one.rows)))
    metrics = tuple(columns) or _suitable(rows)
    spread = interval or metrics[min(1, len(metrics) - 1)]
    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("slice" if slices else "domain", "model"):
        table.add_column(name, overflow="fold")
    table.add_column("users", justify="right", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
        if name == spread:
            table.add_column("95 %", justify="right", no_wrap=True)
            if protocol.draws > 1:
                table.add_column("draws", justify="right", no_wrap=True)
    places = list(dict.fromkeys(shown.place for shown in rows))
    for place in places:
        here = [shown.row for shown in rows if shown.place == place]
        here.sort(key=lambda row: (row.model not in BASELINES, row.model))
        best = {name: max(row.metrics.get(name, float("-inf")) for row in here) for name in metrics}
        for index, row in enumerate(here):
            cells = _cells(row, metrics, spread, best, protocol.draws > 1)
            table.add_row(place if index == 0 else "", *cells, end_section=index == len(here) - 1)
    title = Text(describe(protocol), style="bold yellow" if protocol.sampled else "bold")
    return Group(title, table, Text(_caption(results, spread), style="dim"))


class _Shown:
    """A row of a table; the same figures in two results files are one row."""

    def __init__(self, row: Row, results: Results) -> None:
        self.row, self.place = row, row.slice or row.domain
        self.key = (self.place, row.model, results.config, tuple(row.metrics.items()))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shown) and self.key == other.key


def _suitable(rows: Sequence[_Shown]) -> tuple[str, ...]:
    held = set(rows[0].row.metrics) if rows else set()
    chosen = MULTI_TARGET_COLUMNS if "recall@20" in held else COLUMNS
    return tuple(name for name in chosen if name in held) or tuple(sorted(held))


def _cells(row: Row, metrics: Sequence[str], spread: str, best: dict[str, float], drawn: bool) -> list[Text]:
    baseline = row.model in BASELINES
    cells = [Text(f"[{row.model}]" if baseline else row.model, style="dim" if baseline else ""), Text(f"{row.users:,}")]
    for name in metrics:
        value = row.metrics.get(name)
        style = "bold" if value is not None and value == best[name] else ""
        cells.append(Text("-" if value is None else _short(value), style=style))
        if name == spread:
            ends = row.interval.get(name)
            cells.append(Text("-" if ends is None else f"{_short(ends[0])}-{_short(ends[1])}", style="dim"))
            if drawn:
                cells.append(Text("-" if name not in row.draw_sd else f"±{_short(row.draw_sd[name])}", style="dim"))
    return cells


def _short(value: float) -> str:
    """Four decimals and no leading zero, as published tables have them."""
    return f"{value:.4f}".removeprefix("0")


def _caption(results: Sequence[Results], spread: str) -> str:
    parts = [f"data set {results[0].dataset[:12]}"]
    for one in results:
        if one.config is not None:
            seeds = ", ".join(map(str, one.seeds))
            parts.append(f"config {one.config[:12]}, seeds {seeds or '-'}, chosen by {one.selection or '-'}")
        parts.extend(f"{number:,} {what}" for what, number in one.counts.items() if number)
    if results[0].protocol.draws > 1:
        parts.append(f"draws: standard deviation of {spread} over {results[0].protocol.draws} draws of candidates")
    several = any(len(one.seeds) > 1 for one in results)
    drawn = "users, and where a row is a mean over seeds, over those" if several else "users (one seed)"
    drawn = drawn if any(one.config is not None for one in results) else "users"
    parts.append(f"95 % of {spread}: bootstrap over {drawn}; [baseline]: no network")
    return "; ".join(dict.fromkeys(parts))
