"""What is printed is text: nothing in it moves the cursor, is markup, or is something else than it looks like."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.table import Table

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.errors import InputError
from mdrec_jax.experiments.tables import TextTable, markdown, show
from mdrec_jax.serve.recommendations import without_formulas, write_recommendations
from mdrec_jax.terminal import console, plain, say
from tests.command import mdrec

NASTY = "\x1b[31mred\x1b]8;;http://x\x07 \x9b2J \u202eabc \x00 \r \ud800"

SHORT = "\x1b[31mred\x9b2J\x07\u202e\x00"


def test_control_characters_are_shown_and_not_sent(capsys: pytest.CaptureFixture) -> None:
    say(NASTY + " [bold]x[/] \n\tnext")
    shown = capsys.readouterr().out
    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert "[bold]x[/] \n\tnext" in shown
    assert "\\u001b[31mred" in shown


def test_json_stays_what_it_is() -> None:
    value = {"\x9bname": NASTY}
    assert json.loads(plain(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize("terminal", [True, False])
def test_a_rich_table_shows_markup_and_control_characters_as_text(terminal: bool) -> None:
    screen = console(width=200)
    screen.file, screen._force_terminal = io.StringIO(), terminal
    table = Table("[/]", SHORT, title="[red]t")
    table.add_row("[/x]", f"[bold]{SHORT}", style="bold")
    screen.print(table, "[/] :smile:", style="bold")
    shown = screen.file.getvalue()
    for text in ("[/x]", "[bold]", "[red]t", "[/] :smile:", "\\u001b[31m"):
        assert text in shown
    for text in ("\x1b[31m", "\x9b", "\x07", "\u202e", "\x00"):
        assert text not in shown


def test_a_table_of_text_shows_brackets(capsys: pytest.CaptureFixture) -> None:
    table = TextTable("[/] title", ("model", "[x]"), (("[popularity]", "a|b"),), ("[/] note",))
    show(table)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[/] title", "[x]", "[popularity]", "[/] note"))
    assert "a\\|b |" in markdown(table)


def log_of(folder: Path, *domains: str) -> Path:
    rows = [
        {"user": f"u{user}", "item": f"i{(user + n) % 7}", "time": n, "domain": domain}
        for domain in domains
        for user in range(6)
        for n in range(5)
    ]
    pl.DataFrame(rows).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


@pytest.mark.parametrize(
    "name", ["macro", "all", "ALL", "Macro", "", " ", "a ", "a/b", "a\nb", "a\x1b[0m", "\uff41ll", "\u200ba", "é" * 90]
)
def test_a_domain_whose_name_means_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        prepare("parquet", [log_of(tmp_path, "books", name)], tmp_path / "d", PrepareOptions(min_user=1, min_item=1))
    assert "domain" in str(error.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("one", "two"), [("Books", "books"), ("Straße", "STRASSE"), ("\u00e9", "e\u0301")])
def test_domains_that_look_alike_are_refused(tmp_path: Path, one: str, two: str) -> None:
    with pytest.raises(InputError, match="look alike"):
        prepare("parquet", [log_of(tmp_path, one, two)], tmp_path / "d", PrepareOptions(min_user=1, min_item=1))


def test_domains_may_have_markup_in_their_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "d")
    log = str(log_of(tmp_path, "[red]x", "[[]]", ":smile:"))
    assert mdrec("prepare", "parquet", log, "--out", out, "--min-user=1", "--min-item=1") == 0
    assert mdrec("baselines", out, "--slices") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("[red]x", "[[]]", ":smile:"))


def test_an_error_does_not_send_what_it_quotes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert mdrec("prepare", "csv", str(tmp_path / "a\x1b[31m.csv"), "--out", str(tmp_path / "o")) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_no_spreadsheet_takes_an_id_or_a_title_for_a_formula(tmp_path: Path) -> None:
    raw = ["=1+1", "+cmd", "-2+3", "@x", "\tx", "\rx", "\uff1d1", "-5", "+1.5", "a=b", "", None]
    frame = pl.DataFrame({"item": raw, "score": [-1.0] * len(raw)}, schema={"item": pl.String, "score": pl.Float64})
    safe = without_formulas(frame)
    assert safe["item"].to_list() == [f"'{text}" for text in raw[:7]] + raw[7:]
    assert safe["score"].equals(frame["score"])
    two = without_formulas(frame.with_columns(title=pl.col("item").reverse()))
    assert two["title"].to_list() == safe["item"].to_list()[::-1]
    for ending in ("csv", "jsonl", "parquet"):
        write_recommendations(tmp_path / f"a.{ending}", [frame])
    assert pl.read_csv(tmp_path / "a.csv")["item"][0] == "'=1+1"
    assert pl.read_ndjson(tmp_path / "a.jsonl")["item"][0] == "=1+1"
    assert pl.read_parquet(tmp_path / "a.parquet")["item"].to_list() == raw
