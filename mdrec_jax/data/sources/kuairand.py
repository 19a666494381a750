"""KuaiRand-1K as AutoCDSR published it: long sequences whose events come from several kinds of feedback.

A tar archive (or the folder it unpacks to) holds `training/`, `evaluation/` and `testing/partition_*.tfrecord.gz`. A
record is a tf.train.Example with two int64 lists of one length: `sequence_data` (the item; -1 = outside the
vocabulary) and `sequence_event_type`. The kind of feedback is the *domain* of an event, and all domains share their
items. There is no user id and no time: each record is a sequence, and a user, of its own.

Roles: sequences, not users, are split, and the model is asked for the last item. A training record is trained on as a
whole. Of an evaluation (testing) record the last item of the vocabulary is the validation (test) target, and every
other event is context: read, never predicted. Items outside the vocabulary are read as the unknown item.
Source: AutoCDSR (KDD 2025); data: Gao et al., "KuaiRand" (CIKM 2022).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int8, Int64

from mdrec_jax.data.sources.rawlog import OPTION_NAMES, RawLog, SourceOptions
from mdrec_jax.data.sources.reading import MAX_BYTES, find_in, one_path, read_bytes, require_file, tar_members, unzip
from mdrec_jax.data.sources.tfrecord import count_varints, decode_varints, packed_int64_lists, read_records
from mdrec_jax.errors import InputError

_TARGET_ROLES = {"training": 0, "evaluation": 1, "testing": 2}
_CONTEXT = 3
_MEMBER = re.compile(r"(?:\./)?(training|evaluation|testing)/partition_(\d+)\.tfrecord(?:\.gz)?")
_LISTS = ("sequence_data", "sequence_event_type")
_UNKNOWN = -1


@dataclass(frozen=True)
class _Partition:
    """One TFRecord file: its records' lengths, and all their events behind each other."""

    split: str
    number: int
    lengths: list[int]
    item: Int64[np.ndarray, "N"]
    domain: Int64[np.ndarray, "N"]


def read(paths: Sequence[Path], options: SourceOptions) -> RawLog:
    """Reads the archive, the folder that holds it, or the folder that it unpacks to.

    Raises:
        InputError: missing or truncated archive, a member that does not belong there, or a malformed record.
    """
    options.refuse("kuairand", *OPTION_NAMES)
    path = one_path(paths, "the archive or its folder")
    files, members = _members(path)
    budget = MAX_BYTES
    partitions = []
    for split, number, file, data in members:
        content = unzip(data, file=file, limit=budget)
        budget -= len(content)
        partitions.append(_read_partition(split, number, file, content))
    if not partitions:
        raise InputError("no partition", file=path, expected="training/partition_*.tfrecord.gz and so on")
    partitions.sort(key=lambda part: (tuple(_TARGET_ROLES).index(part.split), part.number))
    events, domains = _events(partitions)
    return RawLog(
        events=events,
        has_time=False,
        ordered=True,
        files=tuple(files),
        default_split="given",
        domains=domains,
        event_types=("feedback",),
        unknown_item=str(_UNKNOWN),
    )


def _members(path: Path) -> tuple[list[Path], Iterator[tuple[str, int, Path, bytes]]]:
    """(files read, (split, number, name for messages, compressed content) of every partition)."""
    if path.is_dir():
        archives = sorted(path.glob("*.tar"))
        if len(archives) > 1:
            raise InputError("several archives", file=path, found=[file.name for file in archives], expected="one .tar")
        if archives:
            path = archives[0]
    if not path.is_dir():
        require_file(path, "a tar archive of TFRecord files")
        return [path], (_named(path, name, data) for name, data in tar_members(path))
    names = sorted(str(file.relative_to(path)) for split in _TARGET_ROLES for file in path.glob(f"{split}/*.tfrecord*"))
    files = [find_in(path, name) for name in names]
    return files, (_named(path, name, read_bytes(file)) for name, file in zip(names, files, strict=True))


def _named(path: Path, name: str, data: bytes) -> tuple[str, int, Path, bytes]:
    match = _MEMBER.fullmatch(name)
    if match is None:
        expected = "training|evaluation|testing/partition_NUMBER.tfrecord.gz"
        raise InputError("a file that does not belong here", file=path, found=name, expected=expected)
    return match[1], int(match[2]), path / name, data


def _read_partition(split: str, number: int, file: Path, content: bytes) -> _Partition:
    lengths: list[int] = []
    packed: tuple[list[bytes], list[bytes]] = ([], [])
    for row, record in enumerate(read_records(content, file), 1):
        try:
            items, kinds = packed_int64_lists(record, _LISTS)
        except ValueError as error:
            raise InputError(
                "not an example of two lists", file=file, row=row, found=error, expected=str(_LISTS)
            ) from None
        length = count_varints(items)
        if length == 0 or length != count_varints(kinds):
            found = f"{length} items, {count_varints(kinds)} event types"
            raise InputError("lists that do not fit", file=file, row=row, found=found, expected="one length, not 0")
        lengths.append(length)
        packed[0].append(items)
        packed[1].append(kinds)
    try:
        item, domain = (decode_varints(b"".join(parts)) for parts in packed)
    except ValueError as error:
        raise InputError("malformed list of integers", file=file, found=error) from None
    for name, values, least in (("sequence_data", item, _UNKNOWN), ("sequence_event_type", domain, 0)):
        if len(values) and values.min() < least:
            row = int(np.searchsorted(np.cumsum(lengths), np.argmin(values), side="right")) + 1
            raise InputError(
                "value out of range", file=file, row=row, column=name, found=values.min(), expected=f"at least {least}"
            )
    return _Partition(split, number, lengths, item, domain)


def _events(partitions: list[_Partition]) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    item = np.concatenate([part.item for part in partitions])
    domain = np.concatenate([part.domain for part in partitions])
    role = np.concatenate([_roles(part) for part in partitions])
    lengths = np.concatenate([np.array(part.lengths, np.int64) for part in partitions])
    names = [f"{part.split}/{part.number}/{row}" for part in partitions for row in range(len(part.lengths))]
    sequence = np.repeat(np.arange(len(names)), lengths)
    frame = pl.LazyFrame({"item": item, "domain": domain, "role": role, "user": pl.Series(names).gather(sequence)})
    events = frame.with_columns(
        pl.col("item").cast(pl.String),
        pl.col("domain").cast(pl.String),
        pl.lit("feedback").alias("event"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("order"),
    )
    return events, tuple(str(name) for name in np.unique(domain).tolist())


def _roles(part: _Partition) -> Int8[np.ndarray, "N"]:
    """0 in training records; else context, but for the last item of the vocabulary of each record."""
    size = len(part.item)
    if part.split == "training" or size == 0:
        return np.zeros(size, np.int8)
    role = np.full(size, _CONTEXT, np.int8)
    starts = np.concatenate(([0], np.cumsum(part.lengths)[:-1])).astype(np.int64)
    last = np.maximum.reduceat(np.where(part.item != _UNKNOWN, np.arange(size), -1), starts)
    role[last[last >= 0]] = _TARGET_ROLES[part.split]
    return role
