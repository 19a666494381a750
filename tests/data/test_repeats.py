"""What `prepare` says of a log that is not what it looks like: copies, orders of ids, times that are not used."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.data.prepare.repeats import ascending_share, copies, with_later_training
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.summary import notes, summarise, summary_lines
from mdrec_jax.errors import InputError
from tests.command import mdrec
from tests.data.make import make_dataset

ONE = PrepareOptions(min_user=1, min_item=1)
HALF = 0.05


def log(folder: Path, head: str, rows: list[tuple]) -> Path:
    (folder / "log.csv").write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return folder / "log.csv"


def test_copies_of_rows_are_counted_and_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [(f"u{user}", f"i{n % 5}", f"{1_600_000_000 + n // 2}.{n % 2}") for user in range(4) for n in range(8)]
    again = [*rows, *rows[:9], rows[0], ("u0", "i0", "1600000000.25")]  # the last is of another time
    path = log(tmp_path, "user,item,time", again)
    arguments = ["prepare", "csv", str(path), "--out", str(tmp_path / "d"), "--min-user=1", "--min-item=1"]
    assert mdrec(*arguments) == 0
    shown = capsys.readouterr()
    assert "repeat another in all but the row: 11" in shown.out
    assert "--duplicates exact" in shown.err
    assert mdrec(*arguments, "--duplicates", "exact") == 0
    assert "left out: duplicates 10" in capsys.readouterr().out


def test_a_log_without_copies_has_none_and_repeats_are_none(tmp_path: Path) -> None:
    rows = [("u", f"i{n % 2}", 1_600_000_000 + n) for n in range(9)]
    dataset = prepare("csv", [log(tmp_path, "user,item,time", rows)], tmp_path / "d", ONE)
    assert copies(dataset) == 0
    assert not any("repeat another" in line for line in summary_lines(dataset, summarise(dataset)))
    exact = PrepareOptions(min_user=1, min_item=1, duplicates="exact")
    assert prepare("csv", [tmp_path / "log.csv"], tmp_path / "d", exact).manifest.counts.events == 9


def test_without_times_a_copy_cannot_be_told_from_a_repeat(tmp_path: Path) -> None:
    path = log(tmp_path, "user,item", [("u", f"i{n % 3}") for n in range(9)])
    with pytest.raises(InputError, match="without times a copy"):
        prepare("csv", [path], tmp_path / "d", PrepareOptions(min_user=1, min_item=1, duplicates="exact"))


def days(folder: Path, *, sort: bool) -> Path:
    """Events of days, several a day; with `sort` those of a day by item."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        for day in range(3):
            items = rng.choice(900, 4, replace=False)
            rows += [(f"u{user}", item, 86_400 * (18_000 + day)) for item in (sorted(items) if sort else items)]
    return log(folder, "user,item,time", rows)


@pytest.mark.parametrize(("tie", "sort", "told"), [("file", True, True), ("file", False, False), ("id", False, True),
                                                   ("seeded", True, False)])  # fmt: skip
def test_an_order_of_ids_within_ties_is_named(tmp_path: Path, tie, sort: bool, told: bool) -> None:
    options = PrepareOptions(min_user=1, min_item=1, tie=tie)
    dataset = prepare("csv", [days(tmp_path, sort=sort)], tmp_path / "d", options)
    pairs, share = ascending_share(dataset)
    assert pairs == 60 * 3 * 3
    assert share == 1.0 if told else abs(share - 0.5) < HALF
    assert any("540 neighbouring events of one second 100.0% ascend" in note for note in notes(dataset)) == told
    assert any("ascend by raw id" in note for note in notes(dataset)) == told


def test_an_order_of_ids_is_named_without_times_too(tmp_path: Path) -> None:
    rows = pl.read_csv(days(tmp_path, sort=True)).select("user", "item").rows()
    dataset = prepare("csv", [log(tmp_path, "user,item", rows)], tmp_path / "d", ONE)
    assert any("neighbouring events of a user" in note for note in notes(dataset))


def test_loo_trains_on_what_came_later_elsewhere_and_loo_mixed_does_not(tmp_path: Path) -> None:
    domain = np.random.default_rng(0).choice(["a", "b"], 360)
    rows = [(f"u{n % 30}", f"i{n % 20}", str(domain[n]), n) for n in range(360)]
    by_domain = make_dataset(tmp_path / "d", rows, PrepareOptions(split="loo"))
    mixed = make_dataset(tmp_path / "m", rows, PrepareOptions(split="loo-mixed"))
    later, tests = with_later_training(by_domain)
    assert (later, tests) == slow_later(by_domain)
    assert later > 0
    told = [line for line in summary_lines(by_domain, summarise(by_domain)) if "behind them" in line]
    assert told == [
        f"test targets with training events of the same user behind them: {later} of {tests} "
        f"({later / tests:.1%}; split loo-mixed: none)"
    ]
    assert with_later_training(mixed) == slow_later(mixed) == (0, 30)


def slow_later(dataset) -> tuple[int, int]:
    found = []
    for low, high in zip(dataset.sequence_offsets[:-1], dataset.sequence_offsets[1:], strict=True):
        role = dataset.role[low:high].tolist()
        found += [0 in role[place:] for place, one in enumerate(role) if one == 2]
    return sum(found), len(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datetime", lambda n: 1_600_000_000 + n),
        ("created_at", lambda n: 1_600_000_000_000 + n),
        ("eventTime", lambda n: 1_600_000_000_000_000_000 + n),
        ("when", lambda n: f"2020-01-{n + 1:02d}"),
        ("x", lambda n: f"2020-01-{n + 1:02d} 10:00:00"),
        ("day", lambda n: f"202001{n + 1:02d}"),
    ],
)
def test_a_column_of_times_that_is_not_used_is_named(tmp_path: Path, name: str, value) -> None:
    path = log(tmp_path, f"user,item,{name}", [("u", f"i{n}", value(n)) for n in range(9)])
    with pytest.raises(InputError, match=f"column '{name}': looks like times") as error:
        prepare("csv", [path], tmp_path / "d", ONE)
    assert f"--time-column {name}" in str(error.value)
    none = PrepareOptions(min_user=1, min_item=1, source=SourceOptions(time_column="none"))
    assert not prepare("csv", [path], tmp_path / "d", none).manifest.has_time


def test_a_column_that_is_no_time_is_let_be(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", 9.5 + n, 1_600_000_000 + n, "nice 2020-01-01", "") for n in range(9)]
    path = log(tmp_path, "user,item,price,isbn,text,date", rows)
    assert not prepare("csv", [path], tmp_path / "d", ONE).manifest.has_time
