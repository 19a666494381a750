"""The file of people's states: what it keeps, what it refuses, and who may hold it."""

import os
import zipfile
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.transitions import STEPS
from mdrec_jax.serve import state_file
from mdrec_jax.serve.state_file import (
    FORMAT,
    MOST_PACKED,
    WAIT,
    UserStates,
    appended,
    lock_state_file,
    read_states,
    write_states,
)

MODEL: Any = SimpleNamespace()
NEVER = np.iinfo(np.int64).min


@pytest.fixture(autouse=True)
def model_keeps_two_numbers_and_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a network's state."""

    def initial(model: object, people: int) -> Any:
        return {"h": np.zeros((people, 2), np.float32), "n": np.zeros(people, np.int32)}

    monkeypatch.setattr(state_file, "initial_state", initial)


def csr(lists: list[list[int]], dtype: Any = np.int32) -> Csr:
    flat = [value for one in lists for value in one]
    return Csr(from_lengths(np.array([len(one) for one in lists], np.int64)), np.array(flat, dtype))


def listed(lists: Csr) -> list[list[int]]:
    return [lists.values[low:high].tolist() for low, high in zip(lists.offsets, lists.offsets[1:], strict=False)]


def two() -> UserStates:
    state: Any = {"h": np.array([[1.5, 2], [3, 4]], np.float32), "n": np.array([7, 8], np.int32)}
    recent = np.arange(2 * STEPS, dtype=np.int32).reshape(2, STEPS)
    return UserStates(
        ["ä", "b\0c"], state, np.array([5, NEVER]), recent, csr([[2, 9], []]), csr([[-4, 3, 3], [11]], np.int64)
    )


def same(one: UserStates, other: UserStates) -> bool:
    mine, theirs = ([*vars(x).values()] for x in (one, other))
    leaves = [[np.asarray(x) for x in jax.tree.leaves([*map(flat, some)])] for some in (mine, theirs)]
    return one.names == other.names and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*leaves, strict=True)
    )


def flat(value: Any) -> Any:
    return [value.offsets, value.values] if isinstance(value, Csr) else [] if isinstance(value, list) else value


def test_the_documented_limits() -> None:
    assert (FORMAT, WAIT, MOST_PACKED) == (2, 30.0, 1032)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    write_states(tmp_path / "s.npz", two(), "run ü")
    assert same(read_states(tmp_path / "s.npz", MODEL, "run ü", 10), two())
    assert (tmp_path / "s.npz").stat().st_mode & 0o777 == 0o600, "for its owner alone"
    with np.load(tmp_path / "s.npz") as file:
        assert set(file.files) == {
            "format", "run", "names", "names_offsets", "time", "recent", "seen", "seen_offsets", "read",
            "read_offsets", "['h']", "['n']",
        }  # fmt: skip
        assert (int(file["format"]), file["format"].dtype) == (FORMAT, np.int64)


def test_a_file_that_is_not_there_holds_nobody(tmp_path: Path) -> None:
    found = read_states(tmp_path / "s.npz", MODEL, "a run", 10)
    assert same(found, UserStates.none(MODEL))
    assert found.names == []
    assert [x.shape for x in (found.time, found.recent, found.seen.offsets, found.read.offsets)] == [
        (0,), (0, STEPS), (1,), (1,)
    ]  # fmt: skip
    assert [x.dtype for x in (found.time, found.recent, found.seen.values, found.read.values)] == [
        np.int64, np.int32, np.int32, np.int64
    ]  # fmt: skip


def test_new_people_are_added_behind_the_known_with_nothing_read() -> None:
    place, states = two().including(["new", "ä", "newer", "new"], MODEL)
    assert place.tolist() == [2, 0, 3, 2]
    assert place.dtype == np.int64
    assert states.names == ["ä", "b\0c", "new", "newer"]
    assert states.time.tolist() == [5, NEVER, NEVER, NEVER]
    assert states.recent[:2].tolist() == two().recent.tolist()
    assert not states.recent[2:].any()
    assert listed(states.seen) == [[2, 9], [], [], []]
    assert listed(states.read) == [[-4, 3, 3], [11], [], []]
    assert (states.seen.offsets.tolist(), states.read.offsets.tolist()) == ([0, 2, 2, 2, 2], [0, 3, 4, 4, 4])
    state: Any = states.state
    assert state["h"].tolist() == [[1.5, 2], [3, 4], [0, 0], [0, 0]]
    place, states = two().including(["b\0c"], MODEL)
    assert (place.tolist(), len(states.names)) == ([1], 2)


def test_lists_grow_at_their_places_and_keep_their_order() -> None:
    grown = appended(csr([[5, 1], [], [3]]), np.array([2, 0]), csr([[9, 8], [1]]))
    assert listed(grown) == [[5, 1, 1], [], [3, 9, 8]]
    assert listed(appended(csr([[], [], []]), np.array([1]), csr([[4]]))) == [[], [4], []]
    assert listed(appended(csr([[1], []]), np.zeros(0, np.int64), csr([]))) == [[1], []]
    long = appended(csr([list(range(40)), []]), np.array([0]), csr([list(range(40, 80))]))
    assert listed(long) == [list(range(80)), []]


def broken(tmp_path: Path, **changed: Any) -> InputError:
    """What is said of a file whose arrays are changed (None = gone)."""
    write_states(tmp_path / "s.npz", two(), "a run")
    with np.load(tmp_path / "s.npz") as file:
        arrays = {name: file[name] for name in file.files} | changed
    np.savez(tmp_path / "s.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError) as error:
        read_states(tmp_path / "s.npz", MODEL, "a run", 10)
    assert error.value.file == tmp_path / "s.npz"
    return error.value


@pytest.mark.parametrize(
    ("name", "array", "found", "expected"),
    [
        ("time", None, "nothing", "int64 (any)"),
        ("time", np.zeros((2, 1), np.int64), "int64 (2, 1)", "int64 (any)"),
        ("time", np.zeros(2, np.int32), "int32 (2,)", "int64 (any)"),
        ("recent", np.zeros((2, STEPS + 1), np.int32), f"int32 (2, {STEPS + 1})", f"int32 (2, {STEPS})"),
        ("recent", np.zeros((3, STEPS), np.int32), f"int32 (3, {STEPS})", f"int32 (2, {STEPS})"),
        ("seen", np.zeros(2, np.int64), "int64 (2,)", "int32 (any)"),
        ("seen_offsets", np.zeros(2, np.int64), "int64 (2,)", "int64 (3)"),
        ("read", np.zeros(4, np.int32), "int32 (4,)", "int64 (any)"),
        ("names", np.zeros(5, np.int8), "int8 (5,)", "uint8 (any)"),
        ("['h']", np.zeros((2, 3), np.float32), "float32 (2, 3)", "float32 (2, 2)"),
        ("['n']", None, "nothing", "int32 (2)"),
        ("format", np.int32(FORMAT), "int32 ()", "int64 ()"),
        ("run", None, "nothing", "uint8 (any)"),
    ],
)
def test_an_array_of_another_kind_is_refused_by_its_name(
    name: str, array: Any, found: str, expected: str, tmp_path: Path
) -> None:
    error = broken(tmp_path, **{name: array})
    assert (error.problem, error.column) == ("not the states of this model", name)
    assert (error.found, error.expected) == (found, expected)


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("seen_offsets", np.array([1, 2, 2]), "whole numbers that rise from 0 to 2"),
        ("seen_offsets", np.array([0, 1, 1]), "whole numbers that rise from 0 to 2"),
        ("seen_offsets", np.array([0, 3, 2]), "whole numbers that rise from 0 to 2"),
        ("read_offsets", np.array([0, 5, 4]), "whole numbers that rise from 0 to 4"),
        ("seen", np.array([2, 10], np.int32), "ids of items below 10"),
        ("seen", np.array([-1, 9], np.int32), "ids of items below 10"),
        ("recent", np.full((2, STEPS), 10, np.int32), "ids of items below 10"),
        ("names", np.frombuffer(b"\xff\xff" + b"b\0c", np.uint8), "UTF-8"),
        ("names", np.frombuffer(b"abcab", np.uint8), None),
    ],
)
def test_damaged_values_are_refused(name: str, array: np.ndarray, expected: str | None, tmp_path: Path) -> None:
    if expected is None:
        names = np.frombuffer(b"abab", np.uint8)
        error = broken(tmp_path, names=names, names_offsets=np.array([0, 2, 4]))
        expected = "each name once"
    else:
        error = broken(tmp_path, **{name: array})
    assert (error.problem, error.column) == ("damaged states", name)
    assert (error.expected or "").startswith(expected)


def test_states_of_another_format_or_run_are_refused(tmp_path: Path) -> None:
    error = broken(tmp_path, format=np.int64(FORMAT - 1))
    assert (error.problem, error.column) == ("states of another version", "format")
    assert (int(str(error.found)), error.expected) == (FORMAT - 1, str(FORMAT))
    error = broken(tmp_path, run=np.frombuffer(b"another", np.uint8))
    assert (error.problem, error.column) == ("the states are of another model", "run")
    assert (error.found, error.expected) == ("another", "a run")
    assert "start without the file" in str(error.hint)


def test_an_archive_that_is_none_or_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read") as error:
        read_states(path, MODEL, "a run", 10)
    assert error.value.expected == "a whole file of states"
    for name, data in (("time.npy", b"\x93NUMPY\x01\x00"), ("time.npy", b"nothing")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, data)
        with pytest.raises(InputError, match="cannot be read"):
            read_states(path, MODEL, "a run", 10)
    bomb = SimpleNamespace(filename="time.npy", file_size=MOST_PACKED * 101 + 1, compress_size=100)
    honest = SimpleNamespace(filename="time.npy", file_size=MOST_PACKED * 101, compress_size=100)
    data = path_of(np.zeros(3, np.int64), tmp_path).read_bytes()

    class Archive:
        def __init__(self, member: Any) -> None:
            self.infolist, self.read = (lambda: [member]), lambda _: data

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_file.zipfile, "ZipFile", lambda _: Archive(honest))
        assert state_file._members(path)["time"].tolist() == [0, 0, 0]
        patch.setattr(state_file.zipfile, "ZipFile", lambda _: Archive(bomb))
        with pytest.raises(InputError, match="declares"):
            state_file._members(path)


def path_of(array: np.ndarray, folder: Path) -> Path:
    np.save(folder / "one.npy", array, allow_pickle=True)
    return folder / "one.npy"


def test_an_array_is_read_whole_and_never_as_objects(tmp_path: Path) -> None:
    for array in (np.arange(6, dtype=np.int32).reshape(2, 3), np.float32(2), np.zeros((0, 4), np.int64)):
        found = state_file._array(path_of(np.asarray(array), tmp_path).read_bytes())
        assert (found.dtype, found.shape, found.tolist()) == (array.dtype, array.shape, array.tolist())
        assert found.flags.writeable
    data = path_of(np.arange(4), tmp_path).read_bytes()
    for other in (data[:-8], data + b"\0" * 8):
        with pytest.raises(ValueError, match="an array"):
            state_file._array(other)
    with pytest.raises(ValueError, match="an array"):
        state_file._array(path_of(np.array([None]), tmp_path).read_bytes())


def test_one_call_at_a_time_holds_the_file_and_tells_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.npz"
    lock = tmp_path / "deep" / ".s.npz.lock"
    with lock_state_file(path):
        assert lock.read_text() == str(os.getpid())
        with pytest.raises(InputError, match="the states are in use") as error, lock_state_file(path, wait=0):
            raise AssertionError("two at once")
        assert error.value.file == path
        assert error.value.found == f"process {os.getpid()}, still after 0 seconds"
        assert error.value.expected == "one call at a time"
    lock.write_text("123456789012 and more")
    with lock_state_file(path, wait=0):
        assert lock.read_text() == str(os.getpid()), "nothing of the last one's number is left"
    assert [field.name for field in fields(UserStates)] == ["names", "state", "time", "recent", "seen", "read"]
    assert not path.exists()
    with lock_state_file(path):
        lock.write_text("")
        with pytest.raises(InputError, match="unknown"), lock_state_file(path, wait=0):
            raise AssertionError("two at once")


def test_a_call_waits_for_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tries = [0.0], []
    monkeypatch.setattr(state_file.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(state_file.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(state_file, "_locked", lambda _: tries.append(clock[0]) or clock[0] >= 2)
    with lock_state_file(tmp_path / "s.npz", wait=3):
        pass
    assert len(tries) > 10
    assert tries[-1] == pytest.approx(2)
    clock[0] = -100.0
    with pytest.raises(InputError, match="after 3 seconds"), lock_state_file(tmp_path / "s.npz", wait=3):
        pass
    assert clock[0] == pytest.approx(-97, abs=0.11)
