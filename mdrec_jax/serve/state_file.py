"""Users' states between two calls: in memory, and as a file of plain arrays that one call at a time may change."""

import fcntl
import io
import itertools
import math
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32, Int64

from mdrec_jax.data.csr import Csr, from_lengths
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.transitions import STEPS
from mdrec_jax.files import check_writable, open_in_place, replacing
from mdrec_jax.models.api import Model
from mdrec_jax.models.streaming.step import StreamState, initial_state

FORMAT = 2
WAIT = 30.0
"""Seconds that a call waits for another one that works on the same file."""
MOST_PACKED = 1032
"""Bytes that a byte of a deflated member can unpack to, at most; what declares more is no member of ours."""


@dataclass(frozen=True)
class UserStates:
    """U users. The lists `seen` and `read` grow with a history, and are no part of what the model reads."""

    names: list[str]
    """As the files of events have them."""
    state: StreamState
    """Of numpy arrays, float32."""
    time: Int64[np.ndarray, "U"]
    """Of the last event, seconds since the epoch; the least int64 where none had a time."""
    recent: Int32[np.ndarray, "U STEPS"]
    """The last items, the latest first; 0 where there are fewer."""
    seen: Csr
    """The items of the catalogue that each has had, ascending."""
    read: Csr
    """A digest of every event that was read (`deduplicate.event_digests`), in the order of reading."""

    @classmethod
    def none(cls, model: Model) -> "UserStates":
        no_numbers = np.zeros(0, np.int64)
        none, no_items = np.zeros(1, np.int64), np.zeros(0, np.int32)
        return cls([], _fresh(model, 0), no_numbers, _no_items(0), Csr(none, no_items), Csr(none, no_numbers))

    def including(self, names: list[str], model: Model) -> tuple[Int64[np.ndarray, "P"], "UserStates"]:
        """(the places of these users, all states); those without a state are added."""
        place = {name: number for number, name in enumerate(self.names)}
        for name in names:
            place.setdefault(name, len(place))
        new = len(place) - len(self.names)
        states = UserStates(
            list(place),
            jax.tree.map(lambda *parts: np.concatenate(parts), self.state, _fresh(model, new)),
            np.concatenate([self.time, np.full(new, np.iinfo(np.int64).min)]),
            np.concatenate([self.recent, _no_items(new)]),
            _with_empty(self.seen, new),
            _with_empty(self.read, new),
        )
        return np.array([place[name] for name in names], np.int64), states


def _fresh(model: Model, users: int) -> StreamState:
    return jax.tree.map(np.asarray, initial_state(model, users))


def _no_items(users: int) -> Int32[np.ndarray, "U STEPS"]:
    return np.zeros((users, STEPS), np.int32)


def _with_empty(lists: Csr, new: int) -> Csr:
    return Csr(np.concatenate([lists.offsets, np.full(new, lists.offsets[-1])]), lists.values)


def appended(lists: Csr, place: Int64[np.ndarray, "P"], more: Csr) -> Csr:
    """List `place[p]` with list p of `more` behind it; no place stands twice."""
    owner = np.concatenate([lists.owner, place[more.owner]])
    order = np.argsort(owner, kind="stable")
    values = np.concatenate([lists.values, more.values])[order]
    return Csr(from_lengths(np.bincount(owner, minlength=len(lists))), values)


@contextmanager
def lock_state_file(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Keeps a file of states from every other call until the block ends; the system lets go of it however it ends.

    What is locked is a file beside it, `.NAME.lock`, which stays: the file of states itself is replaced.

    Raises:
        InputError: another call still holds it after `wait` seconds, or what is to be locked is no file of ours.
    """
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_in_place(path.with_name(f".{path.name}.lock")) as file:
        last = time.monotonic() + wait
        while not _locked(file.fileno()):
            if time.monotonic() > last:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise InputError(
                    "the states are in use",
                    file=path,
                    found=f"process {owner}, still after {wait:g} seconds",
                    expected="one call at a time",
                    hint="nothing was read or written: make the call again when the other one is done",
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_states(path: Path, states: UserStates, run: str) -> None:
    """Writes the file, for its owner alone; it appears whole or not at all."""
    names = [name.encode() for name in states.names]
    arrays = {
        "format": np.int64(FORMAT),
        "run": np.frombuffer(run.encode(), np.uint8),
        # As bytes: an array of strings is as wide as its longest, and ends a string at its zeros.
        "names": np.frombuffer(b"".join(names), np.uint8),
        "names_offsets": from_lengths(np.array([len(name) for name in names], np.int64)),
        "time": states.time,
        "recent": states.recent,
        "seen": states.seen.values,
        "seen_offsets": states.seen.offsets,
        "read": states.read.values,
        "read_offsets": states.read.offsets,
    }
    leaves = {jax.tree_util.keystr(name): leaf for name, leaf in jax.tree_util.tree_leaves_with_path(states.state)}
    with replacing(path, private=True) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **leaves)


def read_states(path: Path, model: Model, run: str, num_items: int) -> UserStates:
    """The states of a file; none where there is no such file.

    Args:
        num_items: V, above every item's id.

    Raises:
        InputError: not a file of states, a damaged one, or one of another run.
    """
    if not path.exists():
        return UserStates.none(model)
    found = _Arrays(path, _members(path))
    if int(found.array("format", np.int64, ())) != FORMAT:
        raise InputError(
            "states of another version", file=path, column="format", found=found["format"], expected=str(FORMAT)
        )
    written_by = found.array("run", np.uint8, (None,)).tobytes().decode(errors="replace")
    if written_by != run:
        hint = "start without the file, from all users' whole histories"
        raise InputError(
            "the states are of another model", file=path, column="run", found=written_by, expected=run, hint=hint
        )
    time = found.array("time", np.int64, (None,))
    users = len(time)
    names = found.names(users)
    wanted, tree = jax.tree_util.tree_flatten_with_path(_fresh(model, 0))
    leaves = [found.array(jax.tree_util.keystr(name), x.dtype, (users, *x.shape[1:])) for name, x in wanted]
    recent, seen = found.array("recent", np.int32, (users, STEPS)), found.lists("seen", np.int32, users)
    found.check_items("recent", num_items)
    found.check_items("seen", num_items)
    read = found.lists("read", np.int64, users)
    return UserStates(names, jax.tree.unflatten(tree, leaves), time, recent, seen, read)


def _members(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name. None is larger than what its bytes can hold; the archive keeps a sum of each."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > MOST_PACKED * (member.compress_size + 1):
                    raise ValueError(f"{member.filename} declares {member.file_size:,} bytes")
                arrays[member.filename.removesuffix(".npy")] = _array(archive.read(member))
    # What zipfile and numpy say of bytes that are not theirs.
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("cannot be read", file=path, found=error, expected="a whole file of states") from None
    return arrays


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size != len(data) - file.tell():
        raise ValueError(f"an array {dtype} {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape).copy()


@dataclass(frozen=True)
class _Arrays:
    """What stands in a file, each array asked for by what it has to be."""

    path: Path
    found: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.found[name]

    def array(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
        """The array `name`; None in the shape stands for any length."""
        array = self.found.get(name)
        fits = array is not None and array.dtype == dtype and array.ndim == len(shape)
        if array is None or not fits or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
            told = "nothing" if array is None else f"{array.dtype} {array.shape}"
            wanted = f"{np.dtype(dtype)} ({', '.join('any' if n is None else str(n) for n in shape)})"
            raise InputError("not the states of this model", file=self.path, column=name, found=told, expected=wanted)
        return array

    def lists(self, name: str, dtype: Any, users: int) -> Csr:
        """A list a user: the values `name` and where each list begins."""
        offsets, values = self.array(f"{name}_offsets", np.int64, (users + 1,)), self.array(name, dtype, (None,))
        if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
            raise self.damaged(f"{name}_offsets", f"whole numbers that rise from 0 to {len(values):,}")
        return Csr(offsets, values)

    def check_items(self, name: str, num_items: int) -> None:
        items = self.found[name]
        if items.size and not (items.min() >= 0 and items.max() < num_items):
            raise self.damaged(name, f"ids of items below {num_items:,}")

    def names(self, users: int) -> list[str]:
        lists = self.lists("names", np.uint8, users)
        text, ends = lists.values.tobytes(), lists.offsets.tolist()
        try:
            names = [text[low:high].decode() for low, high in itertools.pairwise(ends)]
        except UnicodeDecodeError as error:
            raise self.damaged("names", f"UTF-8 ({error.reason})") from None
        if len(set(names)) < len(names):
            raise self.damaged("names", "each name once")
        return names

    def damaged(self, name: str, expected: str) -> InputError:
        return InputError("damaged states", file=self.path, column=name, expected=expected)
