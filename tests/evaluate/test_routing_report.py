"""Routing and probes for people: which rows are shown where, how figures are written, and how means are laid out."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from mdrec_jax.evaluate.metrics import span_names
from mdrec_jax.evaluate.probes import probes, routing_means, routing_report
from mdrec_jax.evaluate.probes.linear_probe import Figure
from mdrec_jax.evaluate.probes.probes import Probes, probes_table
from mdrec_jax.evaluate.probes.routing_means import Routing, RoutingRow
from mdrec_jax.evaluate.protocol import Protocol

SPANS = ("1-4", "5-9", "10-19", "200+")


def lines(table: RenderableType) -> list[list[str]]:
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        console.print(table)
    rows = [line.split() for line in capture.get().splitlines() if line.strip()]
    return [row for row in rows if set("".join(row)) != {"─"}]


def row(
    view: str, what: str, layer: int, where: dict[str, str], mean: dict[str, float], events: int = 1200
) -> RoutingRow:
    return RoutingRow(view, what, layer, where, events, mean)


def routing() -> Routing:
    rows = []
    for view in ("in_domain", "mixed"):
        for layer in (1, 2):
            for domain in ("books", "films"):
                for span in ("10-19", "5-9", "200+") if domain == "books" else ("5-9",):
                    value = layer + len(span) / 10
                    rows.append(row(view, "loops", layer, {"domain": domain, "history": span}, {"loops": value}))
            rows.append(row(view, "loops", layer, {"domain": "books"}, {"loops": 9.0}))
            for name in ("mixers", "experts") if view == "mixed" else ("mixers",):
                for where in ({"domain": "books"}, {"history": "5-9"}, {"domain": "books", "history": "5-9"}):
                    share = layer / 4 if "domain" in where else 1.0
                    rows.append(row(view, name, layer, where, {"a": share, "b": 1 - share}, 7000 * len(where)))
                    rows.append(row(view, f"{name}_entropy", layer, where, {f"{name}_entropy": layer / 10}))
    return Routing("test", 3, {}, 9, tuple(rows))


def test_tables_are_of_the_mixed_view_first_and_of_passes_before_shares() -> None:
    titles = [str(table.title) for table in routing_report.routing_tables(routing())]
    assert titles == [
        "mixed view: mean loops by history length", "mixed view: shares of mixers, mean over layers",
        "mixed view: shares of experts, mean over layers", "in_domain view: mean loops by history length",
        "in_domain view: shares of mixers, mean over layers",
    ]  # fmt: skip
    assert list(routing_report.routing_tables(Routing("test", 0, {}, 0, ()))) == []


def test_passes_are_by_layer_and_domain_with_short_histories_first() -> None:
    table = next(iter(routing_report.routing_tables(routing())))
    shown = lines(table)
    assert shown[shown.index(["layer", "domain", "5-9", "10-19", "200+"]) + 1 :] == [
        ["1", "books", "1.30", "1.50", "1.40"],
        ["1", "films", "1.30"],
        ["2", "books", "2.30", "2.50", "2.40"],
        ["2", "films", "2.30"],
    ]
    assert [column.justify for column in table.columns] == ["left", "left", "right", "right", "right"]


def test_shares_are_means_over_layers_of_one_fact_at_a_time() -> None:
    table = list(routing_report.routing_tables(routing()))[1]
    assert lines(table)[1:] == [
        ["of", "events", "a", "b", "entropy"],
        ["domain", "books", "7,000", ".375", ".625", ".15"],
        ["history", "5-9", "7,000", "1.000", ".000", ".15"],
    ]
    assert [column.justify for column in table.columns] == ["left", "right", "right", "right", "right"]
    assert all(column.no_wrap for column in table.columns)
    assert [tuple(by) for by in routing_report.BY] == [("domain",), ("event",), ("gap",), ("history",)]


class Axes:
    """Notes what is drawn."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.drawn.append((name, args, options))

    def of(self, name: str) -> list[tuple[Any, Any]]:
        return [(args, options) for one, args, options in self.drawn if one == name]


def test_a_line_a_layer_shows_passes_over_history() -> None:
    axes = Axes()
    rows = [
        row("mixed", "loops", layer, {"history": span}, {"loops": layer / 2})
        for layer in (2, 1)
        for span in SPANS[::-1]
    ]
    routing_report._draw_loops(axes, [*rows, row("mixed", "loops", 1, {"domain": "books"}, {"loops": 5.0})])
    assert axes.of("plot") == [
        ((list(SPANS), [0.5] * 4, "o-"), {"label": "layer 1"}), ((list(SPANS), [1.0] * 4, "o-"), {"label": "layer 2"}),
    ]  # fmt: skip
    assert [name for name, *_ in axes.drawn[2:]] == ["set_xlabel", "set_ylabel", "legend"]


def test_bars_are_stacked_over_all_facts() -> None:
    axes = Axes()
    rows = [one for one in routing().rows if (one.view, one.what) == ("mixed", "mixers")]
    routing_report._draw_shares(axes, rows)
    (first, at_first), (second, at_second) = axes.of("barh")
    labels = ["domain: books", "history: 5-9"]
    assert (first, at_first["left"], at_first["label"]) == ((labels, [0.375, 1.0]), [0.0, 0.0], "a")
    assert (second, at_second["left"], at_second["label"]) == ((labels, [0.625, 0.0]), [0.375, 1.0], "b")
    assert at_first["color"] != at_second["color"]
    assert axes.of("set_xlim") == [((0, 1), {})]
    assert axes.of("invert_yaxis") == [((), {})]


NAMES = {"domain": ("books", "films"), "event": ("e",), "history": span_names((1, 5, 10))}


def test_means_are_laid_out_by_what_the_data_set_has() -> None:
    assert routing_means.LAYOUTS == (("domain",), ("event",), ("gap",), ("history",), ("domain", "history"))
    assert routing_means._layouts(NAMES) == [("domain",), ("event",), ("history",), ("domain", "history")]
    facts = {"domain": np.array([0, 1, 1]), "history": np.array([2, 0, 1])}
    assert routing_means._group(("domain",), facts, NAMES).tolist() == [[1, 0], [0, 1], [0, 1]]
    both = routing_means._group(("domain", "history"), facts, NAMES)
    assert (both.shape, both.argmax(1).tolist(), both.sum(1).tolist()) == ((3, 6), [2, 3, 4], [1, 1, 1])


def test_rows_are_means_by_layer_and_group_and_empty_groups_have_none() -> None:
    layout = ("domain", "history")
    counts = {layout: np.array([2.0, 0, 0, 0, 4, 0])}
    total = np.zeros((2, 6, 2))
    total[0, 0], total[0, 4], total[1, 0], total[1, 4] = (1, 1), (4, 0), (2, 0), (1, 3)
    found = list(routing_means._rows({(layout, "mixed/mixers"): total}, counts, NAMES, {"mixers": ("a", "b")}))
    books, films = {"domain": "books", "history": "1-4"}, {"domain": "films", "history": "5-9"}
    assert found == [
        RoutingRow("mixed", "mixers", 1, books, 2, {"a": 0.5, "b": 0.5}),
        RoutingRow("mixed", "mixers", 1, films, 4, {"a": 1.0, "b": 0.0}),
        RoutingRow("mixed", "mixers", 2, books, 2, {"a": 1.0, "b": 0.0}),
        RoutingRow("mixed", "mixers", 2, films, 4, {"a": 0.25, "b": 0.75}),
    ]
    (alone,) = routing_means._rows(
        {(("event",), "in_domain/loops"): np.full((1, 1, 1), 6.0)}, {("event",): np.array([3])}, NAMES, {}
    )
    assert alone == RoutingRow("in_domain", "loops", 1, {"event": "e"}, 3, {"loops": 2.0})


def test_an_event_is_in_the_span_of_the_events_up_to_it() -> None:
    position = np.array([[0, 3, 4, 8, 9, 18, 19, 198, 199, 500]])
    zeros = np.zeros_like(position)
    batch: Any = SimpleNamespace(segment=zeros + 1, time=zeros, position=position, domain=zeros + 1, event=zeros + 2)
    found = routing_means._facts(batch)
    names = span_names((1, 5, 10, 20, 50, 100, 200))
    assert [names[place] for place in found["history"][0]] == [
        "1-4", "1-4", "5-9", "5-9", "10-19", "10-19", "20-49", "100-199", "200+", "200+",
    ]  # fmt: skip
    assert (found["domain"].tolist(), found["event"].tolist()) == ((zeros + 1).tolist(), (zeros + 2).tolist())
    manifest: Any = SimpleNamespace(domains=("x",), event_types=("e",), has_time=True)
    eval_set: Any = SimpleNamespace(dataset=SimpleNamespace(manifest=manifest))
    assert list(routing_means._names(eval_set)) == ["domain", "event", "gap", "history"]
    assert routing_means._names(eval_set)["history"] == names
    manifest.has_time = False
    assert list(routing_means._names(eval_set)) == ["domain", "event", "history"]


@pytest.mark.parametrize("embedding", [True, False])
def test_probes_are_shown_code_by_code(embedding: bool) -> None:
    codes = {
        "shared": {"logistic": Figure(0.5, 0.4, 0.61), "kept": Figure(1.25, 1, 2)},
        "h": {"ndcg@10": Figure(0.1, 0.05, 0.2)},
    }
    found = Probes(Protocol(), "d" * 20, "c" * 20, 3, 1234, 567, 0.25, codes, embedding)
    shown = lines(probes_table(found))
    assert " ".join(shown[0]) == "Probes of codes at 1,234 histories of 567 users"
    assert shown[1:5] == [
        ["code", "measure", "value", "95", "%"],
        ["shared", "logistic", "0.500", "0.400-0.610"],
        ["kept", "1.250", "1.000-2.000"],
        ["h", "ndcg@10", "0.100", "0.050-0.200"],
    ]
    caption = " ".join(word for line in shown[5:] for word in line)
    assert "chance 0.250;" in caption
    assert f"data set {'d' * 12}, config {'c' * 12};" in caption
    assert ("no domain embedding to remove" in caption) is not embedding
    values = found.to_json()
    assert values["codes"]["h"] == {"ndcg@10": {"value": 0.1, "low": 0.05, "high": 0.2}}
    assert values["protocol"] == Protocol().to_json()
    assert (values["seed"], values["histories"], values["users"], values["chance"]) == (3, 1234, 567, 0.25)
    assert probes.CODES == ("shared", "specific", "h")
    assert probes.HIDDEN == 128


def test_where_nothing_was_planted_no_factors_are_read(tmp_path: Any) -> None:
    dataset: Any = SimpleNamespace(path=tmp_path)
    histories: Any = None
    assert probes.planted(dataset, histories) == {}


def test_a_plot_has_a_row_a_view_and_a_panel_for_each_kind_of_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, asked, saved, closed = [[Axes() for _ in range(3)] for _ in range(2)], [], [], []
    figure = SimpleNamespace(savefig=lambda path, **options: saved.append(options) or Path(path).write_text("png"))
    pyplot = SimpleNamespace(
        subplots=lambda *size, **options: asked.append((size, options)) or (figure, grid), close=closed.append
    )
    monkeypatch.setitem(sys.modules, "matplotlib", SimpleNamespace(use=asked.append, pyplot=pyplot))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    every = routing()
    history = [row("mixed", "loops", 1, {"history": "1-4"}, {"loops": 1.5})]
    experts = [row("in_domain", "experts", 1, {"domain": "books"}, {"a": 0.25, "b": 0.75})]
    routing_report.plot_routing(Routing("test", 1, {}, 1, (*every.rows, *history, *experts)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_text() == "png"
    assert asked[0] == "Agg"
    (size, options) = asked[1]
    assert (size, options["figsize"], options["squeeze"]) == ((2, 3), (16.5, 8.4), False)
    assert (saved[0]["format"], closed) == ("png", [figure])
    titles = [[panel.of("set_title")[0][0][0] for panel in panels] for panels in grid]
    assert titles == [
        [f"{what}, {view} view" for what in ("loops", "mixers", "experts")] for view in ("mixed", "in_domain")
    ]
    assert grid[0][0].of("plot") == [((["1-4"], [1.5], "o-"), {"label": "layer 1"})], "of its own view alone"
    assert grid[1][0].of("plot") == []
    assert [args[0] for args, _ in grid[1][2].of("barh")] == [["domain: books"]] * 2
