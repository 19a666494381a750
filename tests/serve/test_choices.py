"""What may be recommended, what is popular where a model has nothing to say, what is refused beforehand. No model."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.csr import Csr
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.serve import recommend, stream
from mdrec_jax.serve.given_files import ItemList
from mdrec_jax.serve.recommend import NO_HISTORY, NOTHING_ALLOWED, NOTHING_LEFT, Choice, choose
from mdrec_jax.serve.recommendations import _beside_known, _choice, check_output, recommend_files, without_formulas
from mdrec_jax.serve.users import Users
from tests.data.make import DAY, make_dataset

ROWS = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "2"), ("b", "3"), ("b", "4"), ("c", "5"), ("c", "1"), ("c", "2")]
ROLES = [0, 0, 2, 0, 0, 2, 0, 0, 2]
"""In training: 1 twice, 2 twice, 3 once, 5 once, 4 never."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("choices") / "world", ROWS, default_split="given", role=ROLES)


def csr(*lists: list[int]) -> Csr:
    values = [one for some in lists for one in some]
    return Csr(np.append(0, np.cumsum([len(some) for some in lists])), np.array(values, np.int32))


def test_what_may_be_recommended_is_allowed_and_not_denied() -> None:
    items = np.array([2, 3, 5, 9], np.int32)
    plain = Choice()
    assert (plain.k, plain.allow, plain.keep_seen, plain.allow_each, plain.deny_each) == (10, None, False, None, None)
    assert (Choice().deny.dtype, len(Choice().deny)) == (np.int32, 0)
    assert Choice().universe(items).tolist() == [2, 3, 5, 9]
    assert Choice(allow=np.array([9, 4, 2])).universe(items).tolist() == [2, 9]
    assert Choice(deny=np.array([3, 7])).universe(items).tolist() == [2, 5, 9]
    found = Choice(k=1, allow=np.array([9, 2]), deny=np.array([2])).universe(items)
    assert (found.tolist(), found.dtype) == ([9], np.int32)
    for choice in (Choice(allow=np.array([4])), Choice(deny=items)):
        with pytest.raises(InputError, match="leave no item to recommend") as error:
            choice.universe(items)
        assert error.value.expected == "at least one item of the domain"
    for k in (0, -1):
        with pytest.raises(InputError, match="out of range") as error:
            Choice(k=k).universe(items)
        assert (error.value.column, error.value.found, error.value.expected) == ("--k", k, "at least 1")


def test_lists_of_one_user_lie_one_behind_the_other() -> None:
    found = recommend._together(3, csr([5], [], [1, 2]), None, csr([9, 3], [4], []))
    assert (found.offsets.tolist(), found.values.tolist()) == ([0, 3, 4, 6], [5, 9, 3, 4, 1, 2])
    assert recommend._together(2).offsets.tolist() == [0, 0, 0]
    assert recommend._together(2, None).values.dtype == np.int32


def ids(world: Dataset) -> dict[str, int]:
    return dict(world.items(0).select("raw", "id").iter_rows())


def filled(
    world: Dataset, fallback: list[str], k: int, choice: Choice
) -> tuple[list[list[str]], list[list[float]], list[str]]:
    """The raw items and scores of every list, where those without a reason hold nothing."""
    raw = {number: name for name, number in ids(world).items()} | {0: ""}
    universe = choice.universe(np.asarray(world.domain_items[0]))
    item, score = np.zeros((len(fallback), k), np.int32), np.full((len(fallback), k), -1, np.float32)
    recommend._fill_with_popularity(world, 0, universe, choice, item, score, fallback)
    return [[raw[one] for one in some] for some in item.tolist()], score.tolist(), fallback


def by_popularity(world: Dataset) -> list[str]:
    counts = {"1": 2, "2": 2, "3": 1, "5": 1, "4": 0}
    return sorted(counts, key=lambda name: (-counts[name], ids(world)[name]))


def test_who_has_a_reason_gets_the_most_popular_of_the_training_and_of_equals_the_first(world: Dataset) -> None:
    order = by_popularity(world)
    items, scores, fallback = filled(world, [NO_HISTORY, "", NOTHING_LEFT], 4, Choice())
    assert items == [order[:4], [""] * 4, order[:4]]
    assert scores == [[2, 2, 1, 1], [-1] * 4, [2, 2, 1, 1]]
    assert fallback == [NO_HISTORY, "", NOTHING_LEFT]
    items, scores, _ = filled(world, ["why"], 3, Choice(deny=np.array([ids(world)[order[0]]])))
    assert (items, scores) == ([order[1:4]], [[2, 1, 1]])


def test_what_is_popular_follows_the_lists_of_each_user(world: Dataset) -> None:
    number, order = ids(world), by_popularity(world)
    allow = csr([number["4"], number["3"]], [number["1"]], [], [number["2"]])
    items, scores, fallback = filled(world, ["why", "", "why", "why"], 3, Choice(allow_each=allow))
    assert items == [["3", "4", ""], ["", "", ""], ["", "", ""], ["2", "", ""]]
    assert scores == [[1, 0, 0], [-1] * 3, [0, 0, 0], [2, 0, 0]]
    assert fallback == ["why", "", NOTHING_ALLOWED, "why"]
    deny = csr([number[order[0]], number[order[2]]], [], sorted(number.values()))
    items, scores, fallback = filled(world, ["why", "why", "why"], 2, Choice(deny_each=deny))
    assert items == [[order[1], order[3]], order[:2], ["", ""]]
    assert fallback == ["why", "why", NOTHING_ALLOWED]
    both = Choice(allow_each=csr([number["4"], number["3"]]), deny_each=csr([number["3"]]))
    assert filled(world, ["why"], 2, both)[0] == [["4", ""]]


def test_without_anybody_to_answer_for_everybody_gets_what_is_popular(world: Dataset) -> None:
    scorer: Any = SimpleNamespace(cooccurrence=None)
    nobody, order = np.zeros(0, np.int64), by_popularity(world)
    found = choose(scorer, world, 0, Choice(k=3), 2, nobody, (), lambda _: csr())
    raw = {number: name for name, number in ids(world).items()}
    assert [[raw[one] for one in some] for some in found.item.tolist()] == [order[:3]] * 2
    assert (found.fallback, found.seen) == ([NO_HISTORY] * 2, 0)
    assert (found.item.dtype, found.score.dtype) == (np.int32, np.float32)
    assert choose(scorer, world, 0, Choice(k=99), 1, nobody, (), lambda _: csr()).item.shape == (1, 5)
    scorer.cooccurrence = "a bonus"
    with pytest.raises(ValueError, match="needs the last items"):
        choose(scorer, world, 0, Choice(), 1, nobody, (), lambda _: csr())


def test_lists_of_items_become_choices_and_what_the_domain_lacks_is_counted(world: Dataset) -> None:
    number, counts = ids(world), Counter()
    lists = {"allow": ItemList(["2", "lost", "1", "2"], None), "deny": ItemList(["3", "gone", "1"], ["u", "u", "v"])}
    found = _choice(lists, world, 0, ["v", "u"], counts, Choice(k=7))
    assert found.k == 7
    assert found.allow is not None
    assert found.allow.tolist() == sorted([number["1"], number["2"]])
    assert (found.allow_each, found.deny.tolist()) == (None, [])
    assert found.deny_each is not None
    assert (found.deny_each.offsets.tolist(), found.deny_each.values.tolist()) == (
        [0, 1, 2],
        [number["1"], number["3"]],
    )
    assert counts == {"listed items that one does not have": 2}


def test_users_of_the_data_set_who_are_read_from_the_file_alone_are_counted(world: Dataset) -> None:
    nothing: Any = None
    users = Users(["a", "lost", "c"], nothing, np.zeros((3, 1), np.int64), {"why": 1})
    found = _beside_known(users, world)
    assert found.counts == {"why": 1, "users of the data set, read from the file alone (--append adds)": 2}
    assert (found.names, users.counts) == (users.names, {"why": 1})


def test_exactly_one_file_of_users_is_read(world: Dataset, tmp_path: Path) -> None:
    nothing: Any = None
    for files, found in (({}, "neither"), ({"users": tmp_path / "u", "histories": tmp_path / "h"}, "both")):
        with pytest.raises(InputError, match="exactly one file") as error:
            recommend_files(nothing, world, tmp_path / "out.csv", **files)
        assert (error.value.found, error.value.expected) == (found, "either --users or --histories")


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    check_output(out, None, tmp_path / "other.csv")
    for other in (out, tmp_path / "." / "out.csv", tmp_path / "x" / ".." / "out.csv"):
        with pytest.raises(InputError, match="would be written over") as error:
            check_output(out, None, other)
        assert (error.value.file, error.value.column) == (other, "--out")
    with pytest.raises(InputError, match="unknown format") as error:
        check_output(tmp_path / "out.tsv")
    assert (error.value.found, error.value.expected, error.value.column) == (".tsv", ".csv .jsonl .parquet", "--out")


def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_marked() -> None:
    formulas = [
        "=1",
        "+a",
        "-a",
        "@x",
        "\tx",
        "\rx",
        "\nx",
        "\uff1dx",
        "\uff0bx",
        "\uff0dx",
        "\uff20x",
        "-1-1",
        "+1.",
        "--1",
    ]
    plain = ["a=1", "-1", "+2.5", "-0.25", "12", "", " =1", "a\n=1"]
    frame = pl.DataFrame({"text": [*formulas, *plain, None], "n": range(len(formulas) + len(plain) + 1)})
    found = without_formulas(frame)
    assert found["text"].to_list() == [*("'" + one for one in formulas), *plain, None]
    assert found["n"].to_list() == frame["n"].to_list()
    assert found.columns == ["text", "n"]


def test_no_event_is_later_than_tomorrow_or_the_data_sets_last(world: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    last = int(np.asarray(world.time).max())
    monkeypatch.setattr(stream.time, "time", lambda: last + 7.5)
    assert stream._latest(world) == last + 7 + DAY
    monkeypatch.setattr(stream.time, "time", lambda: last - DAY + 0.0)
    assert stream._latest(world) == last
    monkeypatch.setattr(stream.time, "time", lambda: last - 2.0 * DAY)
    assert stream._latest(world) == last
    empty: Any = SimpleNamespace(time=np.zeros(0, np.int64))
    monkeypatch.setattr(stream.time, "time", lambda: -2.0 * DAY)
    assert stream._latest(empty) == 0
    assert stream.DAY == DAY
