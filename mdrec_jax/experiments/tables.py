"""Tables of text, for a terminal and for a Markdown file."""

from dataclasses import dataclass

from rich import box
from rich.table import Table

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
