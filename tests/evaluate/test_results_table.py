"""A table of results word by word, from rows made up for it."""

from dataclasses import replace

import pytest
from rich.console import Console

from mdrec_jax.evaluate.protocol import Protocol, describe, parse_protocol
from mdrec_jax.evaluate.results import Results, Row
from mdrec_jax.evaluate.table import results_tables

DRAWN = parse_protocol("uniform9x2")


def row(model: str, domain: str, value: float, part: str | None = None) -> Row:
    metrics = {"hr@10": value, "ndcg@10": value / 2, "mrr": value / 4}
    interval = {name: (one - 0.01, one + 0.01) for name, one in metrics.items()}
    return Row(model, domain, 1200, 2400, metrics, interval, part, {name: one / 100 for name, one in metrics.items()})


BASELINES = Results(
    DRAWN,
    "d" * 64,
    None,
    (row("popularity", "books", 0.2), row("transitions", "books", 0.4), row("transitions", "all", 0.3)),
    (row("transitions", "all", 0.1, "history 1-4"),),
    counts={"queries that no file lists": 1234, "nothing": 0},
)
MODEL = replace(
    BASELINES,
    config="c" * 64,
    rows=(row("sasrec", "books", 0.5), row("sasrec", "all", 0.25)),
    slices=(),
    seeds=(0, 7),
    selection="ndcg@10",
    counts={},
)


def lines(results: list[Results], width: int = 200, **options: object) -> list[list[str]]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        for table in results_tables(results, **options):  # pyright: ignore[reportArgumentType]
            console.print(table)
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_each_place_has_its_baselines_first_and_then_the_models() -> None:
    title, head, rule, *rows = lines([MODEL, BASELINES])[:8]
    assert " ".join(title) == describe(DRAWN)
    assert head == ["domain", "model", "users", "hr@10", "ndcg@10", "95", "%", "draws", "mrr"]
    assert set("".join(rule)) == {"─"}
    assert rows == [
        ["books", "[popularity]", "1,200", ".2000", ".1000", ".0900-.1100", "±.0010", ".0500"],
        ["[transitions]", "1,200", ".4000", ".2000", ".1900-.2100", "±.0020", ".1000"],
        ["sasrec", "1,200", ".5000", ".2500", ".2400-.2600", "±.0025", ".1250"],
        ["all", "[transitions]", "1,200", ".3000", ".1500", ".1400-.1600", "±.0015", ".0750"],
        ["sasrec", "1,200", ".2500", ".1250", ".1150-.1350", "±.0013", ".0625"],
    ]


def test_what_a_table_rests_on_stands_below_it() -> None:
    text = " ".join(word for line in lines([MODEL, BASELINES], width=1000)[-1:] for word in line)
    assert text == (
        "data set dddddddddddd; config cccccccccccc, seeds 0, 7, chosen by ndcg@10; 1,234 queries that no file lists; "
        "draws: standard deviation of ndcg@10 over 2 draws of candidates; "
        "95 % of ndcg@10: bootstrap over users, and where a row is a mean over seeds, over those; "
        "[baseline]: no network"
    )
    alone = " ".join(lines([replace(MODEL, seeds=(3,), protocol=Protocol())], width=1000)[-1])
    assert "seeds 3, chosen by" in alone
    assert "bootstrap over users (one seed); [" in alone
    assert "draws" not in alone
    caption = " ".join(lines([BASELINES], width=1000)[-1])
    assert "config" not in caption
    assert "bootstrap over users; [" in caption
    nothing = " ".join(lines([replace(MODEL, seeds=(), selection=None)], width=1000)[-1])
    assert "seeds -, chosen by -" in nothing


def test_columns_may_be_chosen_and_the_interval_be_another_ones() -> None:
    head = lines([BASELINES], columns=("mrr", "hr@10"), interval="mrr")[1]
    assert head == ["domain", "model", "users", "mrr", "95", "%", "draws", "hr@10"]
    assert lines([BASELINES], columns=("mrr",))[1] == ["domain", "model", "users", "mrr", "95", "%", "draws"]
    assert lines([replace(BASELINES, protocol=Protocol())])[1][3:] == ["hr@10", "ndcg@10", "95", "%", "mrr"]
    several = replace(
        row("ease", "all", 0.2), metrics={"recall@20": 0.1, "ndcg@20": 0.2, "precision@20": 0.3, "mrr": 0}
    )
    head = lines([replace(BASELINES, rows=(several,))])[1]
    assert [name for name in head if "@" in name] == ["recall@20", "precision@20", "ndcg@20"]
    others = replace(several, metrics={"hr@3": 0.1, "auc": 0.2})
    assert lines([replace(BASELINES, rows=(others,))])[1][3:] == ["auc", "hr@3", "95", "%", "draws"]


def test_what_a_row_lacks_is_a_dash() -> None:
    short = replace(row("ease", "books", 0.9), metrics={"mrr": 1.5}, interval={}, draw_sd={})
    found = lines([replace(BASELINES, rows=(*BASELINES.rows, short))])
    assert ["books", "[ease]", "1,200", "-", "-", "-", "-", "1.5000"] in found


def test_slices_stand_alone_and_equal_rows_once() -> None:
    head, _, *rows = lines([BASELINES, MODEL, BASELINES], slices=True)[1:4]
    assert head[:2] == ["slice", "model"]
    assert rows == [["history", "1-4", "[transitions]", "1,200", ".1000", ".0500", ".0400-.0600", "±.0005", ".0250"]]
    twice = [line for line in lines([BASELINES, MODEL, BASELINES]) if "[popularity]" in line]
    assert len(twice) == 1
    other = replace(MODEL, config="e" * 64)
    assert sum("sasrec" in line for line in lines([MODEL, other])) == 4, "runs of two configs are two rows"


def test_full_ranking_comes_first_and_data_sets_have_tables_of_their_own() -> None:
    full, other = replace(BASELINES, protocol=Protocol()), replace(BASELINES, dataset="e" * 64)
    text = [" ".join(line) for line in lines([BASELINES, other, full])]
    titles = [line for line in text if "ranking among" in line or "SAMPLED" in line]
    assert titles == [describe(Protocol()), describe(DRAWN), describe(DRAWN)]


def test_the_best_of_a_place_is_bold_and_baselines_are_dim() -> None:
    text = Console(width=200, force_terminal=True, color_system="standard")
    with text.capture() as capture:
        for table in results_tables([MODEL, BASELINES]):
            text.print(table)
    bold = {part.split("\x1b")[0].strip() for part in capture.get().split("\x1b[1m")[1:]}
    assert {".5000", ".2500", ".1250", ".3000", ".1500", ".0750"} <= bold
    assert not {".2000", ".4000", ".1000"} & bold
    assert "\x1b[2m[popularity]" in capture.get()
    assert "\x1b[2msasrec" not in capture.get()
    assert f"\x1b[1;33m{describe(DRAWN)}" in capture.get()


@pytest.mark.parametrize("width", [60, 70])
def test_a_long_name_is_folded_and_no_figure_is_cut(width: int) -> None:
    name = "model" + "-with-a-long-name" * 3
    found = lines([replace(BASELINES, rows=(row(name, "books-and-other-printed-things", 0.2),))], width)
    letters = "".join(word for line in found[3:] for word in line)
    assert "…" not in letters
    assert ".0900-.1100" in letters


def test_figures_stand_on_the_right_below_their_names_and_places_apart() -> None:
    few = replace(MODEL, rows=(MODEL.rows[0], replace(MODEL.rows[1], users=7)))
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        for table in results_tables([few, BASELINES]):
            console.print(table)
    text = [line.rstrip() for line in capture.get().splitlines()]
    assert text[3:11] == [
        " domain  model          users  hr@10  ndcg@10         95 %   draws    mrr",
        " " + "─" * 72,
        " books   [popularity]   1,200  .2000    .1000  .0900-.1100  ±.0010  .0500",
        "         [transitions]  1,200  .4000    .2000  .1900-.2100  ±.0020  .1000",
        "         sasrec         1,200  .5000    .2500  .2400-.2600  ±.0025  .1250",
        "",
        " all     [transitions]  1,200  .3000    .1500  .1400-.1600  ±.0015  .0750",
        "         sasrec             7  .2500    .1250  .1150-.1350  ±.0013  .0625",
    ]
    styled = Console(width=100, force_terminal=True, color_system="standard")
    with styled.capture() as capture:
        for table in results_tables([few, BASELINES]):
            styled.print(table)
    for part in ("[popularity] ", ".0900-.1100", "±.0010", "data set dddddddddddd"):
        assert f"\x1b[2m{part}" in capture.get(), "what is beside the figures is dim"
    assert "\x1b[1m.2000" not in capture.get()
