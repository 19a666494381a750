"""TFRecord files and the integer lists of tf.train.Example, read without TensorFlow.

A TFRecord is: length (uint64), masked CRC-32C of the length, the bytes, masked CRC-32C of the bytes. An Example is the
protocol buffer `features { feature { key, value { int64_list { value } } } }`.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32

from mdrec_jax.errors import InputError

_BLOCK = 4096  # bytes of a checksum that are summed at once; a table row each


@functools.cache
def _crc_table() -> UInt32[np.ndarray, "4096 256"]:
    """Entry [d, b]: what byte b, with d bytes behind it, adds (XOR) to a CRC-32C register that started at zero.

    The register is linear over GF(2), so the bytes of a block need not be taken one after the other.
    """
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = np.where(first & 1, (first >> 1) ^ np.uint32(0x82F63B78), first >> 1).astype(np.uint32)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[0] = first
    for distance in range(1, _BLOCK):
        table[distance] = first[table[distance - 1] & 0xFF] ^ (table[distance - 1] >> 8)
    return table


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C (Castagnoli) checksum of `data`."""
    table = _crc_table()
    content = np.frombuffer(data, np.uint8)
    register = 0xFFFFFFFF
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK].astype(np.intp)
        head = min(4, len(block))
        # What the register holds is the same as if it stood before zeros: it goes into the block's first four bytes.
        block[:head] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)[:head]
        rest = register >> (8 * head)
        register = rest ^ int(np.bitwise_xor.reduce(table[np.arange(len(block) - 1, -1, -1), block]))
    return register ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as a TFRecord file stores it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(data: bytes, file: str | Path) -> Iterator[memoryview]:
    """The records of one (uncompressed) TFRecord file; `file` names it in errors.

    Raises:
        InputError: a record is cut off, or a checksum does not agree; `row` is the 1-based record number.
    """
    view = memoryview(data)
    position = number = 0
    while position < len(view):
        number += 1
        if len(view) - position < 12:
            raise InputError(
                "truncated TFRecord file", file=file, row=number, found=f"{len(view) - position} bytes left"
            )
        length, length_crc = struct.unpack_from("<QI", view, position)
        if masked_crc32c(view[position : position + 8]) != length_crc:
            raise InputError(
                "checksum of a record's length does not agree", file=file, row=number, expected="a TFRecord file"
            )
        end = position + 12 + length
        if end + 4 > len(view):
            found = f"{len(view) - position - 12} bytes left"
            raise InputError(
                "truncated TFRecord file", file=file, row=number, found=found, expected=f"{length + 4} bytes"
            )
        content = view[position + 12 : end]
        if masked_crc32c(content) != struct.unpack_from("<I", view, end)[0]:
            raise InputError("checksum of a record does not agree", file=file, row=number)
        yield content
        position = end + 4


def packed_int64_lists(record: memoryview, names: Sequence[str]) -> list[bytes]:
    """The named int64 lists of one tf.train.Example, each still as packed varints; `decode_varints` reads many at once.

    Raises:
        ValueError: not an Example, or a named list is missing or holds something else.
    """
    found: dict[str, bytes] = {}
    for field, features in _fields(record):
        for entry_field, entry in _fields(features) if field == 1 else ():
            if entry_field != 1:
                continue
            parts = dict(_fields(entry))
            key = bytes(parts.get(1, b"")).decode("utf-8", "replace")
            if key in names and 2 in parts:
                lists = dict(_fields(parts[2]))
                if 3 not in lists:
                    raise ValueError(f"feature '{key}' is not a list of int64")
                found[key] = b"".join(bytes(values) for number, values in _fields(lists[3]) if number == 1)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"no feature '{missing[0]}', only {sorted(found)}")
    return [found[name] for name in names]


def decode_varints(packed: bytes) -> Int64[np.ndarray, "N"]:
    """Signed 64-bit integers from packed protocol buffer varints.

    Raises:
        ValueError: a varint is cut off or longer than ten bytes.
    """
    content = np.frombuffer(packed, np.uint8)
    if len(content) == 0:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(content < 0x80)
    if len(ends) == 0 or ends[-1] != len(content) - 1:
        raise ValueError("truncated varint")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > 10:
        raise ValueError("varint of more than ten bytes")
    values = np.zeros(len(starts), np.uint64)
    remaining = np.arange(len(starts))
    for place in range(int(lengths.max())):  # almost all varints are short: the work shrinks from round to round
        remaining = remaining[lengths[remaining] > place]
        digit = (content[starts[remaining] + place] & 0x7F).astype(np.uint64)
        values[remaining] |= digit << np.uint64(7 * place)
    return values.view(np.int64)


def count_varints(packed: bytes) -> int:
    """How many varints `packed` holds."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 0x80))


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = shift = 0
    while True:
        if position >= len(view) or shift > 63:
            raise ValueError("truncated protocol buffer")
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of a message's fields; a varint comes as its own bytes, fields of fixed width are left out."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        start = position
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            length, start = _varint(message, position)
            position = start + length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} in a protocol buffer")
        if position > len(message):
            raise ValueError("truncated protocol buffer")
        if kind in (0, 2):
            yield number, message[start:position]
