"""A pickle of a stranger may build plain data, and nothing else."""

import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrec_jax.data.sources.safe_pickle import load_coo, load_plain
from mdrec_jax.errors import InputError

PLAIN = {"train": {0: [1, 2, 300, 70_000, -5], 1: []}, "set": {1.5, None}, "tuple": (True, "x", b"y", 1 << 80)}


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil_was_here",)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "data.pkl"
    path.write_bytes(content)
    return path


def coo_pickle(state: dict[str, Any], module: str = "scipy.sparse.coo") -> bytes:
    """What pickling scipy's matrix with this state gives, without scipy."""
    body = pickle.dumps(state, protocol=3)[2:-1]
    return b"\x80\x03" + f"c{module}\ncoo_matrix\n)\x81".encode("latin-1") + body + b"b."


def coo_state(**changes: Any) -> dict[str, Any]:
    row, column = np.array([0, 1, 1], np.int32), np.array([2, 0, 3], np.int32)
    return {"_shape": (2, 4), "row": row, "col": column, "data": np.ones(3)} | changes


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back_as_they_were(tmp_path: Path, protocol: int):
    assert load_plain(write(tmp_path, pickle.dumps({"a": [1, (2, "x")], 3: None}, protocol))) == {
        "a": [1, (2, "x")],
        3: None,
    }


def test_every_plain_type_is_allowed(tmp_path: Path):
    assert load_plain(write(tmp_path, pickle.dumps(PLAIN, 4))) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("load", [load_plain, load_coo])
def test_a_program_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, load
):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, pickle.dumps({"train": [Evil()]}, protocol))
    with pytest.raises(InputError, match=r"(posix|os)\.system") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("module", ["builtins", "numpy", "collections"])
def test_any_global_is_refused_in_a_plain_file(tmp_path: Path, module: str):
    value = {"builtins": complex(1, 2), "numpy": np.float64(3), "collections": OrderedDict(a=1)}[module]
    with pytest.raises(InputError, match=module):
        load_plain(write(tmp_path, pickle.dumps(value)))


@pytest.mark.parametrize(
    "name", ["builtins\neval", "builtins\ngetattr", "numpy\nload", "numpy\nndarray.tofile", "scipy\nsparse"]
)
def test_only_the_named_globals_are_allowed_in_a_matrix_file(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=name.replace("\n", r"\.")):
        load_coo(write(tmp_path, b"\x80\x03c" + name.encode() + b"\n."))


def test_an_old_style_instance_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"os\.system"):
        load_plain(write(tmp_path, b"(S'true'\nios\nsystem\n."))


@pytest.mark.parametrize("content", [b"\x80\x04\x82\x01.", b"\x80\x04K\x01Q.", b"Pname\n."])
def test_extension_codes_and_persistent_ids_are_refused(tmp_path: Path, content: bytes):
    with pytest.raises(InputError):
        load_plain(write(tmp_path, content))


@pytest.mark.parametrize("kept", [0, 1, 5, 40, -1])
def test_a_truncated_pickle_is_refused(tmp_path: Path, kept: int):
    with pytest.raises(InputError, match=r"empty|truncated"):
        load_plain(write(tmp_path, pickle.dumps(PLAIN, 4)[:kept]))


def test_every_truncation_is_refused(tmp_path: Path):
    content = pickle.dumps(coo_state(), 3)
    for kept in range(len(content)):
        with pytest.raises(InputError):
            load_coo(write(tmp_path, content[:kept]))


def test_something_else_than_a_pickle_is_refused(tmp_path: Path):
    for content in (b"user,item\n1,2\n", b"\x1f\x8b\x08\x00", b"\xff" * 50, pickle.dumps([1]) + b"more"):
        with pytest.raises(InputError):
            load_plain(write(tmp_path, content))


def test_a_missing_or_oversized_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        load_plain(tmp_path / "none.pkl")
    with pytest.raises(InputError, match="oversized"):
        load_plain(write(tmp_path, pickle.dumps(list(range(1000)))), max_bytes=1000)


def test_a_huge_memo_index_is_refused_before_the_memo_is_made(tmp_path: Path):
    with pytest.raises(InputError, match="memo"):
        load_plain(write(tmp_path, b"\x80\x02K\x01r" + struct.pack("<I", 1 << 31) + b"."))


def test_a_huge_announced_string_is_refused(tmp_path: Path):
    for code in (b"\x8e", b"\x8d", b"\x96"):  # BINBYTES8, BINUNICODE8, BYTEARRAY8
        with pytest.raises(InputError, match="truncated"):
            load_plain(write(tmp_path, b"\x80\x05" + code + struct.pack("<Q", 1 << 40) + b"x."))


def test_deep_nesting_does_no_harm(tmp_path: Path):
    found = load_plain(write(tmp_path, b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."))
    depth = 1
    while found:
        found, depth = found[0], depth + 1
    assert depth == 50_000


@pytest.mark.parametrize("module", ["scipy.sparse.coo", "scipy.sparse._coo"])
def test_a_coo_matrix_becomes_plain_arrays(tmp_path: Path, module: str):
    matrix = load_coo(write(tmp_path, coo_pickle(coo_state(), module)))
    assert matrix.shape == (2, 4)
    np.testing.assert_array_equal(matrix.row, [0, 1, 1])
    np.testing.assert_array_equal(matrix.column, [2, 0, 3])
    np.testing.assert_array_equal(matrix.data, [1, 1, 1])


def test_coordinates_shape_scalars_and_byte_orders_of_other_versions_are_read(tmp_path: Path):
    state = {
        "_shape": (np.int64(2), np.int32(4)),
        "coords": (np.array([0, 1], ">i8"), np.array([3, 1], np.uint16)),
        "data": np.array([1, 2], ">f4"),
        "has_canonical_format": False,
    }
    matrix = load_coo(write(tmp_path, coo_pickle(state)))
    assert matrix.shape == (2, 4)
    assert matrix.row.tolist() == [0, 1]
    assert matrix.data.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"row": np.array([0, 1, 2], np.int32)}, "outside the matrix"),
        ({"col": np.array([0, 1, -1], np.int32)}, "outside the matrix"),
        ({"row": np.array([0, 1], np.int32)}, "do not fit"),
        ({"row": np.array([0.0, 1, 1])}, "do not fit"),
        ({"row": np.array([0, 1, 1], object)}, "something else than numbers"),
        ({"data": np.array(["a", "b", "c"])}, "something else than numbers"),
        ({"row": np.array([[0, 1, 1]], np.int32)}, "one dimension"),
        ({"row": [0, 1, 1]}, "broken array"),
        ({"_shape": (2, -4)}, "shape"),
        ({"_shape": (2, 4.0)}, "shape"),
        ({"_shape": (2, 4, 1)}, "not a COO matrix"),
        ({"_shape": None}, "not a COO matrix"),
    ],
)
def test_a_matrix_whose_parts_do_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str):
    with pytest.raises(InputError, match=problem):
        load_coo(write(tmp_path, coo_pickle(coo_state(**changes))))


def test_an_array_that_announces_more_than_it_holds_is_refused_without_making_it(tmp_path: Path):
    content = coo_pickle(coo_state())
    # The shape of `row` is written K\x03 and then \x85 (a tuple of one); the first such tuple belongs to it.
    huge = content.replace(b"K\x03\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85")
    assert huge != content
    with pytest.raises(InputError, match="fill its shape"):
        load_coo(write(tmp_path, huge))


def test_a_plain_object_is_no_matrix(tmp_path: Path):
    with pytest.raises(InputError, match="not a COO matrix"):
        load_coo(write(tmp_path, pickle.dumps({"row": [1]})))


def test_the_walk_over_a_pickle_sees_every_instruction(tmp_path: Path):
    """The runs that are passed over at once must end where an instruction ends: a memo bomb behind each is found."""
    bomb = b"r" + struct.pack("<I", 1 << 31)
    for prefix in (b"K.", b"Mr.", b"Jrrr.", b"]", b"(", b"}", b"e", b"\x94"):
        content = b"\x80\x04" + prefix * 7 + bomb + b"."
        assert any(operation.name == "LONG_BINPUT" for operation, _, _ in pickletools.genops(content))
        with pytest.raises(InputError, match="memo"):
            load_plain(write(tmp_path, content))
