"""Pickle files of strangers, read through an allow-list.

A pickle is a program. Here it may build plain containers (dict, list, tuple, set, str, bytes, int, float, bool, None)
and, where a source's format needs them, numpy arrays and scipy's COO matrices. The latter never reach numpy or scipy
while the pickle runs: each allowed name is answered by an inert record that only keeps what it was given, and the
arrays are made afterwards from checked kinds, shapes and sizes.
"""

import io
import pickle
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np

from mdrec_jax.errors import InputError

MAX_BYTES = 1 << 30
"""The largest pickle file that is read (bytes)."""


@dataclass(frozen=True)
class CooMatrix:
    """A sparse matrix as coordinates: entry k is `data[k]` at (`row[k]`, `column[k]`) of a matrix of `shape`."""

    shape: tuple[int, int]
    row: np.ndarray
    column: np.ndarray
    data: np.ndarray


def load_plain(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The object in a pickle file that holds plain containers only.

    Raises:
        InputError: no such file, too large, truncated, not a pickle, or it names any global.
    """
    return _load(path, {}, "plain containers only", max_bytes)


def whole_numbers(values: Any) -> np.ndarray | None:
    """A list of plain integers as an array [n]; None where it is empty, or anything else."""
    if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
        return None
    found = np.array(values)  # of another kind where one of them does not fit into 64 bits
    return found if found.dtype.kind == "i" else None


def load_coo(path: Path, *, max_bytes: int = MAX_BYTES) -> CooMatrix:
    """The scipy COO matrix in a pickle file, without scipy.

    Allowed beside plain containers: numpy's array, dtype and scalar, and scipy's `coo_matrix` / `coo_array`.

    Raises:
        InputError: as `load_plain`, or what is in it is not a COO matrix of numbers with indices inside its shape.
    """
    found = _load(path, _COO_NAMES, "numpy arrays and one scipy COO matrix", max_bytes)
    if not isinstance(found, _CooRecord) or not isinstance(found.state, dict):
        raise InputError("not a COO matrix", file=path, found=type(found).__name__, expected="a scipy COO matrix")
    return _coo(path, found.state)


def _load(path: Path, names: dict[tuple[str, str], Any], allowed: str, max_bytes: int) -> Any:
    if not path.is_file():
        raise InputError("no such file", file=path, expected="a pickle file")
    size = path.stat().st_size
    if size == 0 or size > max_bytes:
        raise InputError(
            "empty or oversized pickle", file=path, found=f"{size} bytes", expected=f"1 to {max_bytes} bytes"
        )
    data = path.read_bytes()
    _check_operations(path, data)
    try:
        found = _Unpickler(path, data, names, allowed).load()
        _check_sharing(path, found, len(data))
        return found
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        OverflowError,
    ) as error:
        raise InputError("broken pickle", file=path, found=error, expected=allowed) from None
    except (MemoryError, RecursionError) as error:
        raise InputError("pickle too large to read", file=path, found=type(error).__name__, expected=allowed) from None


_NUMBERS_AND_LISTS = re.compile(rb"(?:K.|M..|J.{4}|[](}e\x94])*+", re.DOTALL)
"""Runs of small integers, empty containers, marks and appends: nearly all of a large pickle, passed over at once."""
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}


def _check_operations(path: Path, data: bytes) -> None:
    """Walks the program without running it: it must be whole, and may not ask for a memo larger than itself.

    The interpreter allocates its memo by the largest index that is named, so one short instruction could ask for
    gigabytes.
    """
    stream = io.BytesIO(data)
    while True:
        run = _NUMBERS_AND_LISTS.match(data, stream.tell())
        stream.seek(run.end() if run else stream.tell())
        operation = _OPERATIONS.get(stream.read(1))
        if operation is None:
            found = f"byte {stream.tell()} of {len(data)}"
            raise InputError("not a pickle, or a truncated one", file=path, found=found, expected="a whole pickle")
        if operation.name == "STOP":
            break
        try:
            argument = operation.arg.reader(stream) if operation.arg else None
        except ValueError as error:
            problem = "not a pickle, or a truncated one"
            raise InputError(problem, file=path, found=error, expected="a whole pickle") from None
        if operation.name.endswith("PUT") and isinstance(argument, int) and not 0 <= argument <= len(data):
            raise InputError("pickle with an impossible memo index", file=path, found=argument)
    if stream.tell() != len(data):
        raise InputError("bytes behind the end of the pickle", file=path, found=f"{len(data) - stream.tell()} bytes")


def _check_sharing(path: Path, found: Any, size: int) -> None:
    """Refuses containers that stand in so many places that what they hold, place by place, is more than the file.

    A pickle names an object again for two bytes; whoever walks over the lists of a dictionary meets it in full.
    """
    waiting, entries = [found], 0
    while waiting:
        container = waiting.pop()
        held = container.state if isinstance(container, _Record) else container
        inside = (*held.keys(), *held.values()) if isinstance(held, dict) else held
        if not isinstance(inside, list | tuple | set | frozenset):
            continue
        entries += len(inside)
        if entries > size:
            found_text = f"more than {size} entries in {size} bytes"
            raise InputError("a pickle that holds the same things over and over", file=path, found=found_text)
        waiting += [part for part in inside if isinstance(part, dict | list | tuple | set | frozenset | _Record)]


class _Unpickler(pickle.Unpickler):
    """Answers the allowed names with inert records and refuses every other one by name."""

    def __init__(self, path: Path, data: bytes, names: dict[tuple[str, str], Any], allowed: str) -> None:
        super().__init__(io.BytesIO(data))
        self._path, self._names, self._allowed = path, names, allowed

    def find_class(self, module_name: str, global_name: str) -> Any:
        answer = self._names.get((module_name, global_name))
        if answer is None:
            raise InputError(
                "pickle names something that this source may not load",
                file=self._path,
                found=f"{module_name}.{global_name}",
                expected=self._allowed,
                hint="do not load this file by other means: a pickle can run any program",
            )
        return answer

    def persistent_load(self, pid: Any) -> Never:
        raise InputError("pickle with a persistent id", file=self._path, found=pid, expected=self._allowed)


class _Record:
    """What a pickle says about an object: the arguments it was made with and the state it was given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Record): ...


class _Array(_Record): ...


class _Scalar(_Record): ...


class _CooRecord(_Record):
    state: Any = None  # made by `__new__` alone


class _NdarrayName:
    """Stands for the class numpy.ndarray where a pickle passes it as an argument; never made."""

    def __init__(self) -> None:
        raise ValueError("numpy.ndarray called directly")


_COO_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _Dtype,
    ("scipy.sparse.coo", "coo_matrix"): _CooRecord,
    ("scipy.sparse._coo", "coo_matrix"): _CooRecord,
    ("scipy.sparse._coo", "coo_array"): _CooRecord,
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _COO_NAMES[_core, "_reconstruct"] = _Array
    _COO_NAMES[_core, "scalar"] = _Scalar

_NUMBERS = {
    kind + str(size) for kind, sizes in {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}.items() for size in sizes
}
_NUMBERS.add("b1")


def _dtype(path: Path, record: Any) -> np.dtype:
    name = record.arguments[0] if isinstance(record, _Dtype) and record.arguments else None
    order = record.state[1] if isinstance(record, _Dtype) and isinstance(record.state, tuple) else "|"
    if name not in _NUMBERS or order not in ("<", ">", "|", "="):
        raise InputError("array of something else than numbers", file=path, found=name, expected="integers or floats")
    return np.dtype(name).newbyteorder(order)


def _array(path: Path, record: Any) -> np.ndarray:
    """A one-dimensional array from the state (version, shape, dtype, fortran, bytes) of numpy's own pickles."""
    if not isinstance(record, _Array) or not isinstance(record.state, tuple) or len(record.state) != 5:
        raise InputError("broken array in a pickle", file=path, found=type(record).__name__, expected="a numpy array")
    _, shape, dtype_record, _, content = record.state
    dtype = _dtype(path, dtype_record)
    if not isinstance(content, bytes) or not isinstance(shape, tuple) or shape != (len(content) // dtype.itemsize,):
        raise InputError("array whose bytes do not fill its shape", file=path, found=shape, expected="one dimension")
    return np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)


def _whole_number(path: Path, value: Any) -> int:
    """A size: a plain int, or a numpy scalar as (dtype, bytes)."""
    if isinstance(value, _Scalar) and len(value.arguments) == 2:
        dtype = _dtype(path, value.arguments[0])
        if isinstance(value.arguments[1], bytes) and len(value.arguments[1]) == dtype.itemsize and dtype.kind in "iu":
            value = int(np.frombuffer(value.arguments[1], dtype)[0])
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("broken shape of a COO matrix", file=path, found=value, expected="two whole numbers")
    return value


def _coo(path: Path, state: dict[str, Any]) -> CooMatrix:
    # scipy's matrices of different versions keep the same four facts under these names.
    shape = state.get("_shape")
    coordinates = state["coords"] if "coords" in state else (state.get("row"), state.get("col"))
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(coordinates, tuple) or len(coordinates) != 2:
        raise InputError(
            "not a COO matrix", file=path, found=sorted(map(str, state)), expected="_shape, row, col, data"
        )
    rows, columns = (_whole_number(path, extent) for extent in shape)
    row, column, data = (_array(path, part) for part in (*coordinates, state.get("data")))
    if not len(row) == len(column) == len(data) or row.dtype.kind not in "iu" or column.dtype.kind not in "iu":
        found = f"{row.dtype} [{len(row)}], {column.dtype} [{len(column)}], {data.dtype} [{len(data)}]"
        raise InputError(
            "parts of a COO matrix do not fit", file=path, found=found, expected="integer row and col, same lengths"
        )
    for name, index, extent in (("row", row, rows), ("col", column, columns)):
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < extent:
            found = f"{index.min()} to {index.max()}"
            raise InputError(
                "index outside the matrix", file=path, column=name, found=found, expected=f"0 to {extent - 1}"
            )
    return CooMatrix((rows, columns), row, column, data)
