"""TFRecord files and tf.train.Example, against written-out bytes and known checksums."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdrec_jax.data.sources.tfrecord import (
    count_varints,
    crc32c,
    decode_varints,
    masked_crc32c,
    packed_int64_lists,
    read_records,
)
from mdrec_jax.errors import InputError


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(*, packed: bool = True, **lists: list[int]) -> bytes:
    features = b""
    for name, values in lists.items():
        if packed:
            body = field(1, b"".join(varint(value) for value in values))
        else:
            body = b"".join(b"\x08" + varint(value) for value in values)
        features += field(1, field(1, name.encode()) + field(2, field(3, body)))
    return field(1, features)


def tfrecord(*records: bytes) -> bytes:
    out = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        out += length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))
    return out


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_checksums_are_those_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 4095, 4096, 4097, 4099, 8192, 9000])
def test_long_inputs_are_summed_as_the_definition_says(length: int):
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    assert crc32c(data) == slow_crc32c(data)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_varints_come_back(values: list[int]):
    packed = b"".join(varint(value) for value in values)
    assert decode_varints(packed).tolist() == values
    assert count_varints(packed) == len(values)


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\xff", b"\xff" * 10 + b"\x01"])
def test_a_cut_or_endless_varint_is_refused(packed: bytes):
    with pytest.raises(ValueError, match="varint"):
        decode_varints(packed)


@pytest.mark.parametrize("packed", [True, False])
def test_the_lists_of_an_example_are_found_by_name(packed: bool):
    record = example(packed=packed, other=[7], items=[1, -1, 300], kinds=[9, 9, 0])
    items, kinds = packed_int64_lists(memoryview(record), ("items", "kinds"))
    assert decode_varints(items).tolist() == [1, -1, 300]
    assert decode_varints(kinds).tolist() == [9, 9, 0]


def test_an_example_without_the_list_is_refused():
    with pytest.raises(ValueError, match="no feature 'kinds'"):
        packed_int64_lists(memoryview(example(items=[1])), ("items", "kinds"))


def test_a_list_of_another_type_is_refused():
    record = field(1, field(1, field(1, b"items") + field(2, field(1, b"text"))))
    with pytest.raises(ValueError, match="not a list of int64"):
        packed_int64_lists(memoryview(record), ("items",))


def test_every_truncation_of_an_example_is_an_error_or_lacks_a_list():
    record = example(items=[1, 2, 300])
    for kept in range(len(record)):
        with pytest.raises(ValueError, match=r"truncated|no feature|not a list"):
            packed_int64_lists(memoryview(record[:kept]), ("items",))


def test_records_come_in_order():
    data = tfrecord(b"one", b"", b"three")
    assert [bytes(record) for record in read_records(data, "x")] == [b"one", b"", b"three"]


def test_every_truncation_of_a_file_is_refused_with_the_record_number():
    data = tfrecord(b"one", b"two")
    whole = len(tfrecord(b"one"))
    for kept in range(1, len(data)):
        if kept == whole:
            continue
        with pytest.raises(InputError) as caught:
            list(read_records(data[:kept], "file.tfrecord"))
        assert caught.value.row == (1 if kept < whole else 2)
        assert caught.value.file == "file.tfrecord"


def test_every_changed_byte_is_found():
    data = tfrecord(b"one", b"two")
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(InputError):
            list(read_records(changed, "x"))
