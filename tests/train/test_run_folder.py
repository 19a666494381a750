from pathlib import Path

import pytest

from mdrec_jax.errors import InputError
from mdrec_jax.train.runs.run_folder import RunFolder, check_new, check_resumable, locked, remove_unfinished, start

RECORD = {"config": {"model": {"dim": 8}, "hardware": {"data": 1}}, "dataset": {"path": "a", "hash": "x"}}
SHAPES = {".step": ["int32", []]}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    start(folder, RECORD, SHAPES)
    return folder


@pytest.mark.parametrize("name", ["a[b]", "kinds=['x', 'y']", "a\\b", "[a/b]"])
def test_a_path_that_checkpoints_cannot_be_read_from_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="square brackets"):
        RunFolder(tmp_path / name)


@pytest.mark.parametrize("name", ["a[b", "a]b", "]a[", "a b", "a'b", "a*b?", "a%20b"])
def test_a_path_of_other_odd_characters_is_taken(tmp_path: Path, name: str) -> None:
    RunFolder(tmp_path / name)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with locked(folder), pytest.raises(InputError, match="in use"), locked(folder):
        pass
    with locked(folder):
        pass


def test_a_new_run_refuses_a_folder_with_a_run_or_with_something_else(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a run"):
        check_new(folder)
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    check_new(other)
    (other.path / "state.json").write_text("{}")  # as a kill before `config.json` leaves it
    check_new(other)
    for name in (".state.json.a1.part", ".config.json.a1.part"):  # and as one in the middle of a file leaves it
        (other.path / name).write_text("{")
    check_new(other)
    remove_unfinished(other)
    assert [path.name for path in other.path.iterdir()] == ["state.json"]
    (other.path / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"photo\.jpg"):
        check_new(other)


def test_resuming_allows_other_hardware_and_nothing_that_is_learned(folder: RunFolder) -> None:
    moved = {"config": {"model": {"dim": 8}, "hardware": {"data": 4}}, "dataset": {"path": "b", "hash": "x"}}
    assert check_resumable(folder, moved, SHAPES) == {"config.hardware.data": (1, 4), "dataset.path": ("a", "b")}
    wider = {**RECORD, "config": {"model": {"dim": 16}, "hardware": {"data": 1}}}
    with pytest.raises(InputError, match=r"config\.model\.dim"):
        check_resumable(folder, wider, SHAPES)
    with pytest.raises(InputError, match=r"dataset\.hash"):
        check_resumable(folder, {**RECORD, "dataset": {"path": "a", "hash": "y"}}, SHAPES)


def test_a_state_of_another_shape_is_refused_by_name(folder: RunFolder) -> None:
    with pytest.raises(InputError, match=r"\.step"):
        check_resumable(folder, RECORD, {".step": ["int32", [1]]})


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        check_resumable(RunFolder(tmp_path), RECORD, SHAPES)
