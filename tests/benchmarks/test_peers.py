"""What is compared with peers is the same data, ranked by one rule, and no faster result counts that is worse."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "peers"))

import common
import compare
from export import export
from large import make_large

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.synthetic import SyntheticConfig, write_world
from mdrec_jax.errors import InputError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = SyntheticConfig(users=120, items=100, domains=1, mean_length=15, max_length=40)
    return write_world(config, tmp_path_factory.mktemp("peers") / "world")


@pytest.fixture(scope="module")
def log(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> common.Log:
    folder = export(dataset, tmp_path_factory.mktemp("export"))
    return common.load_log(common.Task(str(folder), str(dataset.path), "mdrec"))


def test_the_export_holds_every_event_where_it_belongs(dataset: Dataset, log: common.Log) -> None:
    item, role = np.asarray(dataset.item) - 2, np.asarray(dataset.role)
    assert log.num_items == 100
    assert log.num_sequences == dataset.num_sequences
    np.testing.assert_array_equal(log.query_sequence, np.arange(dataset.num_sequences))
    for s, (start, end) in enumerate(zip(dataset.sequence_offsets[:-1], dataset.sequence_offsets[1:], strict=True)):
        np.testing.assert_array_equal(log.train(s), item[start:end][role[start:end] == 0])
        np.testing.assert_array_equal(log.history(s), item[start : end - 1])
        assert log.target[s] == item[end - 1]


def test_the_lists_in_parquet_are_the_same(dataset: Dataset, tmp_path: Path) -> None:
    folder = export(dataset, tmp_path, max_queries=10)
    log = common.load_log(common.Task(str(folder), str(dataset.path), "mdrec"))
    predict, train = (pl.read_parquet(folder / f"{name}.parquet") for name in ("predict", "train"))
    assert predict["query_id"].to_list() == list(range(10))
    assert predict["item_id"].to_list() == [log.history(q).tolist() for q in range(10)]
    assert train["item_id"].to_list() == [log.train(s).tolist() for s in train["query_id"]]


def test_real_targets_are_those_with_an_event_before_them_in_the_window(log: common.Log) -> None:
    lengths = np.diff(log.train_offsets)
    assert log.targets(1000) == int((lengths - 1).sum())
    assert log.targets(5) == int(np.minimum(lengths - 1, 5).sum())


def test_peers_take_one_domain_only(tmp_path: Path) -> None:
    two = write_world(SyntheticConfig(users=50, items=100, domains=2, mean_length=15, max_length=40), tmp_path / "two")
    with pytest.raises(InputError, match="one domain"):
        export(two, tmp_path / "out")


def test_the_rank_is_one_plus_higher_plus_half_of_ties_without_the_seen() -> None:
    log = common.Log(
        num_items=5,
        train_offsets=np.zeros(1, np.int64),
        train_item=np.zeros(0, np.int64),
        query_sequence=np.arange(3),
        history_offsets=np.array([0, 1, 1, 2]),
        history_item=np.array([0, 3]),
        target=np.array([3, 3, 4]),
    )
    scores = np.array([[9.0, 2, 1, 1, 5], [9, 2, 1, 1, 5], [1, 2, 3, 9, 0]], np.float32)
    known = np.array([True, True, True, True, False])
    found = common.rank_targets(log, lambda q: scores[q], np.eye(5, dtype=np.float32), known)
    ranks = np.array([2.5, 3.5, 4.0])  # item 0 is seen, item 4 unknown; the unknown target is behind every known one
    assert found["hr@10"] == 1
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(ranks + 1)).mean())


def test_the_first_epoch_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 10.0, 10.0, 10.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(now))
    clock = common.Clock()
    for _ in range(2):
        clock.begin_epoch()
        clock.begin_step()
        clock.end_step(100)
        clock.end_epoch()
    summary = clock.summary()
    assert summary["targets_per_second"] == 50
    assert summary["first_step_seconds"] == 10
    assert summary["step_seconds"]["p50"] == 1


def result(peer: str, rate: float, ndcg: float) -> dict:
    return {
        "peer": peer,
        "batch": 128,
        "parameters": 1000,
        "training": {"targets_per_second": rate, "targets_per_epoch": 1000},
        "input_seconds": 0.1,
        "evaluation": {"users_per_second": 10 * rate},
        "quality": {"ndcg@10": ndcg, "hr@10": 2 * ndcg},
        "peak_bytes": 2**30,
    }


@pytest.mark.parametrize(("ndcg", "counts"), [(0.051, "yes"), (0.053, "NO")])
def test_speed_counts_only_with_the_peers_quality(ndcg: float, counts: str) -> None:
    line = compare.row(result("rectools", 500, ndcg), result("mdrec", 15000, 0.05))
    assert "30.0x" in line
    assert line.endswith(f"| {counts} |")


def test_a_failed_peer_is_shown_as_failed() -> None:
    line = compare.row({"peer": "replay", "failed": "no memory"}, result("mdrec", 15000, 0.05))
    assert "failed: no memory" in line
    assert line.count("|") == compare.HEADER.splitlines()[0].count("|")


def test_every_item_of_the_large_catalogue_is_trained_on(tmp_path: Path) -> None:
    dataset = make_large(tmp_path / "large", items=2000, users=400)
    train = dataset.item[dataset.role == 0]
    assert len(np.unique(train)) == 2000 == dataset.num_items - 2
    with pytest.raises(ValueError, match="training events for"):
        make_large(tmp_path / "more", items=20_000, users=400)
