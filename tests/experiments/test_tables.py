"""Tables show names and values as they are."""

import pytest

from mdrec_jax.experiments.tables import TextTable, markdown, show


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = TextTable(
        "a [bold] title", ("variant", "[x]"), (("[popularity]", "[/]"), ("[red]a[/red]", "1")), ("[dim]",)
    )
    show(table)
    out = capsys.readouterr().out
    for text in ("a [bold] title", "[x]", "[popularity]", "[/]", "[red]a[/red]", "[dim]"):
        assert text in out
        assert text in markdown(table)
