"""A run is asked about its own data set or one that extends it; what is new there is no item of the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.prepare.prepare import PrepareOptions, write_log
from mdrec_jax.errors import EXIT_BAD_INPUT, InputError
from mdrec_jax.train.fit import fit
from mdrec_jax.train.runs.run_folder import RunFolder
from mdrec_jax.train.trained import load_run
from tests.command import mdrec
from tests.data.make import make_dataset, make_log, numbered

DOMAINS = ("b", "c")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, what extends it twice, and one of the same size whose ids mean something else."""
    folder = tmp_path_factory.mktemp("data")
    extended = make_dataset(folder / "own", numbered(40, 8, 30, DOMAINS))
    for name, users, items in (("next", 44, 36), ("last", 48, 60)):
        log = make_log(numbered(users, 8, items, DOMAINS))
        extended = write_log(log, "rows", folder / name, PrepareOptions(), parent=extended)
    make_dataset(folder / "other", numbered(40, 8, 30, DOMAINS), PrepareOptions(seed=1))
    return folder


@pytest.fixture
def run(data: Path, small_run: RunConfig, tmp_path: Path) -> Path:
    """A run on the data set `own`; trained once."""
    trained = data / "run"
    if not trained.exists():
        fit(small_run, open_dataset(data / "own"), RunFolder(trained))
    return Path(shutil.copytree(trained, tmp_path / "run"))


def events_of(dataset: Dataset, folder: Path) -> Path:
    """A history of an old item and a new one, and one of a new item alone."""
    items = dataset.items("b").sort("id")["raw"].to_list()
    rows = [("x", items[0]), ("x", items[-1]), ("y", items[-1])]
    frame = pl.DataFrame({"user": [u for u, _ in rows], "item": [i for _, i in rows], "domain": ["b"] * 3})
    frame = frame.with_columns(time=pl.lit(1_500_000_000) + pl.int_range(3))
    frame.write_csv(folder / "events.csv")
    return folder / "events.csv"


def test_other_data_is_refused_by_every_command(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = open_dataset(data / "own"), open_dataset(data / "other")
    assert own.num_items == other.num_items
    events = events_of(other, tmp_path)
    given = ("--data", data / "other", "--out", tmp_path / "out.csv")
    for command in (
        ("evaluate", run, "--data", data / "other"),
        ("recommend", run, "--histories", events, *given),
        ("stream", run, "--events", events, *given),
        ("train", "quickstart", "--data", data / "other", "--init-from", run, "--run", tmp_path / "new"),
    ):
        assert mdrec(*command) == EXIT_BAD_INPUT
        assert "trained on other data" in capsys.readouterr().err
    assert mdrec("train", "--data", data / "other", "--resume", "--run", run) == EXIT_BAD_INPUT
    assert "dataset.hash" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "new").exists()


def test_a_descendant_is_an_ancestors_no_more(run: Path, data: Path) -> None:
    """What was trained on the later data set is not asked about the earlier one."""
    record = json.loads((run / "config.json").read_text())
    record["dataset"]["hash"] = open_dataset(data / "last").hash
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="trained on other data"):
        load_run(run, open_dataset(data / "next"))


def test_new_items_of_a_descendant_are_left_out_and_told(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, last = open_dataset(data / "own"), open_dataset(data / "last")
    events, out = events_of(last, tmp_path), tmp_path / "out.parquet"
    given = ("recommend", run, "--data", data / "last", "--histories", events, "--k", 50, "--out", out)
    assert mdrec(*given) == 0
    shown = capsys.readouterr().err
    assert f"{last.num_items - own.num_items:,} items of {data / 'last'} are new to the run" in shown
    assert "unknown items: 2" in shown
    frame = pl.read_parquet(out)
    known = {name: set(own.items(name)["raw"].to_list()) for name in DOMAINS}
    for name in DOMAINS:
        assert set(frame.filter(pl.col("domain") == name)["item"]) <= known[name]
    assert frame.filter(pl.col("user") == "x")["fallback"].null_count() > 0
    assert set(frame.filter(pl.col("user") == "y")["fallback"]) == {"no known item in the history"}
    mine = load_run(run)
    theirs = load_run(run, last)
    np.testing.assert_array_equal(mine.params.tables["item"], theirs.params.tables["item"])
    assert mdrec("evaluate", run, "--data", data / "last") == 0
    assert "may have been trained on some of the targets" in capsys.readouterr().err
    assert [path.name for path in (run / "evaluation").glob("*.json")] == [f"test-full-data-{last.hash[:12]}.json"]


def test_weights_are_taken_over_by_a_longer_table(
    run: Path, data: Path, small_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, last = open_dataset(data / "own"), open_dataset(data / "last")
    before = load_run(run)
    fit(small_run, last, RunFolder(tmp_path / "new"), init_from=run)
    shown = capsys.readouterr().err
    assert f"{own.num_items - 2} items from {run}, {last.num_items - own.num_items} new" in shown
    assert "not recommended" not in shown
    after = load_run(tmp_path / "new")
    assert after.params.tables["item"].shape[0] > before.params.tables["item"].shape[0]
    fit(small_run, own, RunFolder(tmp_path / "same"), init_from=run)
    assert f"{own.num_items - 2} items from {run}, 0 new" in capsys.readouterr().err


def test_a_resumed_run_finds_its_own_data(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mdrec("train", "quickstart", "--resume", "--run", run, "--train.epochs", "3") == 0
    assert "synthetic" not in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
