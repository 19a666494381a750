"""DiffMM's TikTok: interactions without order, and features of two modalities."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.data.sources.tiktok import read
from mdrec_jax.errors import InputError
from tests.data.test_safe_pickle import coo_pickle

SHAPE = (3, 4)


def matrix(*pairs: tuple[int, int], shape: tuple[int, int] = SHAPE, value: float = 1.0) -> bytes:
    row, column = (np.array([pair[axis] for pair in pairs], np.int32) for axis in (0, 1))
    return coo_pickle({"_shape": shape, "row": row, "col": column, "data": np.full(len(pairs), value)})


def folder_of(path: Path, **changes: bytes) -> Path:
    files = {"trnMat": matrix((0, 1), (0, 2), (2, 0)), "valMat": matrix((0, 0)), "tstMat": matrix((2, 1), (2, 2))}
    for name, content in (files | changes).items():
        (path / f"{name}.pkl").write_bytes(content)
    np.save(path / "image_feat.npy", np.full((4, 2), 60_000, np.float16))
    return path


def test_the_matrices_are_events_with_roles_and_without_order(tmp_path: Path):
    log = read([folder_of(tmp_path)], SourceOptions())
    assert log.events.collect().select("user", "item", "role").rows() == [
        ("0", "1", 0),
        ("0", "2", 0),
        ("2", "0", 0),
        ("0", "0", 1),
        ("2", "1", 2),
        ("2", "2", 2),
    ]
    assert (log.ordered, log.has_time, log.default_split, log.keep_items) == (False, False, "given", True)
    assert log.items["videos"]["item"].to_list() == ["0", "1", "2", "3"]


def test_features_come_as_float32(tmp_path: Path):
    ids, values = read([folder_of(tmp_path)], SourceOptions()).features["image"]
    assert ids == ["0", "1", "2", "3"]
    assert values.dtype == np.float32
    assert np.isfinite(values.sum())


def test_features_follow_their_items_into_the_dataset(tmp_path: Path):
    (tmp_path / "in").mkdir()
    folder = folder_of(tmp_path / "in")
    np.save(folder / "image_feat.npy", np.arange(8, dtype=np.float16).reshape(4, 2))
    dataset = prepare("tiktok", [folder], tmp_path / "out")
    stored = np.load(dataset.path / "features" / "image.npy")
    items = dataset.items("videos")
    for number, raw in items.select("id", "raw").rows():
        assert stored[number].tolist() == [2 * int(raw), 2 * int(raw) + 1]
    assert not dataset.manifest.ordered


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"valMat": matrix((0, 0), shape=(3, 5))}, "different shapes"),
        ({"trnMat": matrix((0, 0), value=-1.0)}, "out of range"),
        ({"trnMat": matrix((0, 0), value=float("nan"))}, "out of range"),
        ({"trnMat": matrix((3, 0))}, "outside the matrix"),
        ({"trnMat": matrix((0, 0))[:-30]}, "truncated"),
        ({"trnMat": pickle.dumps([1])}, "not a COO matrix"),
    ],
)
def test_a_bad_matrix_is_refused(tmp_path: Path, changes: dict[str, bytes], problem: str):
    with pytest.raises(InputError, match=problem) as caught:
        read([folder_of(tmp_path, **changes)], SourceOptions())
    assert str(caught.value.file).endswith(f"{next(iter(changes))}.pkl")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def test_a_program_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"(posix|os)\.system"):
        read([folder_of(tmp_path, tstMat=pickle.dumps(Evil()))], SourceOptions())


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((3, 2), np.float32),
        np.zeros(4, np.float32),
        np.zeros((4, 2), np.int64),
        np.array([[0, 1]] * 3 + [[np.nan, 1]], np.float32),
        np.array([[0, 1]] * 3 + [[np.inf, 1]], np.float16),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path: Path, values: np.ndarray):
    folder = folder_of(tmp_path)
    np.save(folder / "audio_feat.npy", values)
    with pytest.raises(InputError) as caught:
        read([folder], SourceOptions())
    assert str(caught.value.file).endswith("audio_feat.npy")


def test_features_that_are_pickles_or_cut_off_are_refused(tmp_path: Path):
    folder = folder_of(tmp_path)
    np.save(folder / "audio_feat.npy", np.array([[Evil()]], object), allow_pickle=True)
    with pytest.raises(InputError, match="numpy array"):
        read([folder], SourceOptions())
    np.save(folder / "audio_feat.npy", np.zeros((4, 2), np.float32))
    path = folder / "audio_feat.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="numpy array"):
        read([folder], SourceOptions())


def test_a_missing_matrix_is_refused(tmp_path: Path):
    folder = folder_of(tmp_path)
    (folder / "valMat.pkl").unlink()
    with pytest.raises(InputError, match="a file is missing"):
        read([folder], SourceOptions())


def test_the_published_counts_hold(shared_data: Path, tmp_path: Path):
    dataset = prepare("tiktok", [shared_data / "tiktok_diffmm"], tmp_path / "out")
    counts = dataset.manifest.counts
    assert (counts.users, counts.items) == (9308, 6710)
    assert [counts.roles[name] for name in ("train", "validation", "test")] == [59_541, 3051, 6130]
    owner = np.repeat(dataset.sequence_user, np.diff(dataset.sequence_offsets))
    training = dataset.role == 0
    assert (len(np.unique(owner[training])), len(np.unique(dataset.item[training]))) == (9298, 6245)


def test_the_published_features_are_kept(shared_data: Path):
    features = read([shared_data / "tiktok_diffmm"], SourceOptions()).features
    assert {name: values.shape for name, (_, values) in features.items()} == {
        "image": (6710, 128),
        "audio": (6710, 128),
    }
    assert all(np.abs(values).max(axis=1).min() > 0 for _, values in features.values())
    assert pl.Series(features["image"][0]).n_unique() == 6710
