"""The record of looks at test: what a line holds, what is refused beforehand, and how looks are told."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate import looks_at_test
from mdrec_jax.evaluate.looks_at_test import LOOKS, check_recordable, headline, look_lines, read_looks, record_look
from mdrec_jax.evaluate.results import Row


def test_a_headline_is_the_main_figures_of_all_questions_and_of_the_domains_mean() -> None:
    figures = {"hr@10": 0.1, "hr@5": 0.2, "recall@20": 0.3, "ndcg@10": 0.4, "ndcg@20": 0.5, "mrr": 0.6, "hr@1": 0.7}
    rows = [Row(model, domain, 1, 1, figures, {}) for model in ("m", "other") for domain in ("books", "all")]
    rows.append(Row("m", "macro", 1, 1, {"mrr": 0.9}, {}))
    results: Any = SimpleNamespace(rows=rows)
    shown = {"hr@10": 0.1, "recall@20": 0.3, "ndcg@10": 0.4, "ndcg@20": 0.5, "mrr": 0.6}
    assert headline(results, "m") == {"all": shown, "macro": {"mrr": 0.9}}
    assert list(headline(results, "m")["all"]) == list(shown)
    assert headline(results, "none") == {}


def test_every_look_is_a_line_and_is_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert LOOKS == "test_looks.jsonl"
    assert read_looks(folder) == []
    assert record_look(folder, {"by": "ä", "step": 3}) == 1
    assert record_look(folder, {"by": "b"}) == 2
    text = (folder / LOOKS).read_text(encoding="utf-8")
    assert [line.endswith("\n") for line in text.splitlines(keepends=True)] == [True, True]
    assert '"ä"' in text
    first, second = read_looks(folder)
    assert {name: first[name] for name in ("by", "step")} == {"by": "ä", "step": 3}
    assert second["by"] == "b"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first["time"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"look number 2 at test, recorded in {folder / LOOKS}" in shown.err.replace("\n", "")


def test_a_line_that_was_cut_short_stays_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / LOOKS).write_text('{"by": "a"}\n{"by": ')
    assert record_look(tmp_path, {"by": "c"}) == 3
    (tmp_path / LOOKS).write_text((tmp_path / LOOKS).read_text() + '[1]\n"text"\n')
    assert [one.get("by") for one in read_looks(tmp_path)] == ["a", None, "c", None, None]
    assert read_looks(tmp_path)[1] == read_looks(tmp_path)[3] == {}


def test_a_look_that_cannot_be_recorded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        looks_at_test.os, "access", lambda path, how: asked.append(path) or how != looks_at_test.os.W_OK
    )
    for folder, nearest in ((tmp_path / "a" / "b", tmp_path), (tmp_path, tmp_path)):
        with pytest.raises(InputError, match="could not be recorded") as error:
            check_recordable(folder)
        assert error.value.file == folder / LOOKS
        assert asked[-1] == nearest
    (tmp_path / LOOKS).write_text("")
    with pytest.raises(InputError, match="--split validation"):
        check_recordable(tmp_path)
    assert asked[-1] == tmp_path / LOOKS, "the record itself"
    monkeypatch.undo()
    check_recordable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be recorded") as error:
        record_look(tmp_path / "file", {})
    assert error.value.file == tmp_path / "file" / LOOKS
    assert error.value.expected == "room"


def test_the_last_five_looks_are_told_with_their_figures() -> None:
    assert look_lines([]) == ["test was not looked at"]
    look = {"time": "T", "what": "ranking", "protocol": "full"}
    both = {"macro": {"mrr": 0.25, "hr@10": 0.5, "queries": 3}, "all": {"mrr": 0.75}}
    every = [
        {"what": "the first, not told"}, {}, look, look | {"figures": both, "step": 0},
        look | {"figures": {"all": {"mrr": 0.75}}}, {"figures": "nonsense"},
    ]  # fmt: skip
    assert look_lines(every) == [
        "looks at test: 6",
        "  2: a damaged line",
        "  3: T, ranking, full",
        "  4: T, ranking, full, step 0: mrr 0.2500 hr@10 0.5000",
        "  5: T, ranking, full: mrr 0.7500",
        "  6: ?, ?, ?",
    ]
    assert look_lines([look]) == ["looks at test: 1", "  1: T, ranking, full"]
