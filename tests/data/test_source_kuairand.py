"""KuaiRand's archive of TFRecords: domains are kinds of feedback, -1 is outside the vocabulary."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.data.sources.kuairand import read
from mdrec_jax.data.sources.rawlog import SourceOptions
from mdrec_jax.errors import InputError
from tests.data.test_source_tfrecord import example, tfrecord

TRAINING = {"sequence_data": [10, -1, 12, 10], "sequence_event_type": [9, 9, 4, 0]}
EVALUATION = {"sequence_data": [10, 12, 11, -1], "sequence_event_type": [9, 4, 9, 9]}
TESTING = {"sequence_data": [12, -1, 10], "sequence_event_type": [4, 4, 4]}
MEMBERS = {
    "testing/partition_0.tfrecord.gz": [TESTING],
    "training/partition_10.tfrecord.gz": [TRAINING],
    "training/partition_2.tfrecord.gz": [TRAINING, TRAINING],
    "evaluation/partition_0.tfrecord.gz": [EVALUATION],
}


def packed(records: list[dict[str, list[int]]]) -> bytes:
    return gzip.compress(tfrecord(*(example(**record) for record in records)))


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return archive(tmp_path / "kuairand.tar", {name: packed(records) for name, records in MEMBERS.items()})


def test_a_record_is_a_sequence_and_a_user(whole: Path):
    log = read([whole], SourceOptions())
    events = log.events.collect()
    users = events["user"].unique(maintain_order=True).to_list()
    assert users == ["training/2/0", "training/2/1", "training/10/0", "evaluation/0/0", "testing/0/0"]
    assert events["item"].to_list()[:4] == ["10", "-1", "12", "10"]
    assert events["domain"].to_list()[:4] == ["9", "9", "4", "0"]
    assert (log.domains, log.unknown_item, log.items_across, log.has_time) == (("0", "4", "9"), "-1", "shared", False)


def test_the_last_known_item_of_a_held_out_record_is_its_target_and_the_rest_is_context(whole: Path):
    role = read([whole], SourceOptions()).events.collect()["role"].to_list()
    assert role == [0] * 12 + [3, 3, 1, 3] + [3, 3, 2]


def test_unknown_items_are_read_but_never_predicted(whole: Path, tmp_path: Path):
    dataset = prepare("kuairand", [whole], tmp_path / "out")
    unknown = dataset.item == 1
    assert int(unknown.sum()) == 5
    assert set(dataset.role[unknown].tolist()) == {3}
    assert dataset.manifest.counts.items == 3
    assert not any(1 in items for items in dataset.domain_items)


def test_the_folder_of_the_archive_and_the_unpacked_folder_read_the_same(whole: Path, tmp_path: Path):
    expected = read([whole], SourceOptions()).events.collect()
    assert read([whole.parent], SourceOptions()).events.collect().equals(expected)
    unpacked = tmp_path / "unpacked"
    for name, records in MEMBERS.items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(packed(records))
    log = read([unpacked], SourceOptions())
    assert log.events.collect().equals(expected)
    assert len(log.files) == 4


@pytest.mark.parametrize(
    "name", ["../training/partition_0.tfrecord.gz", "/training/partition_0.tfrecord.gz", "notes.txt"]
)
def test_a_member_that_does_not_belong_there_is_refused(tmp_path: Path, name: str):
    path = archive(tmp_path / "x.tar", {name: packed([TRAINING])})
    with pytest.raises(InputError, match="does not belong") as caught:
        read([path], SourceOptions())
    assert caught.value.found == name


def test_a_truncated_archive_is_refused_wherever_it_was_cut(tmp_path: Path):
    """Also between two members, where what is left looks like a smaller archive."""
    path = archive(tmp_path / "x.tar", {f"training/partition_{k}.tfrecord.gz": packed([TRAINING]) for k in range(4)})
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for kept in range(1, end, 128):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"truncated|damaged"):
            read([path], SourceOptions())


def test_a_truncated_member_is_refused_by_its_name(tmp_path: Path):
    path = archive(tmp_path / "x.tar", {"training/partition_0.tfrecord.gz": packed([TRAINING])[:-5]})
    with pytest.raises(InputError, match="truncated") as caught:
        read([path], SourceOptions())
    assert caught.value.file == path / "training/partition_0.tfrecord.gz"


def test_an_archive_that_unpacks_to_too_much_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mdrec_jax.data.sources.kuairand.MAX_BYTES", 200)
    with pytest.raises(InputError, match="more than is allowed"):
        read([whole], SourceOptions())


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"sequence_data": [1, 2], "sequence_event_type": [9]}, "do not fit"),
        ({"sequence_data": [], "sequence_event_type": []}, "do not fit"),
        ({"sequence_data": [1, -2], "sequence_event_type": [9, 9]}, "out of range"),
        ({"sequence_data": [1, 2], "sequence_event_type": [9, -9]}, "out of range"),
        ({"sequence_data": [1, 2]}, "not an example of two lists"),
        ({}, "not an example of two lists"),
    ],
)
def test_a_bad_record_is_refused_with_its_number(tmp_path: Path, record: dict[str, list[int]], problem: str):
    path = archive(tmp_path / "x.tar", {"training/partition_0.tfrecord.gz": packed([TRAINING, record, TRAINING])})
    with pytest.raises(InputError, match=problem) as caught:
        read([path], SourceOptions())
    assert caught.value.row == 2


def test_missing_and_strange_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read([tmp_path / "none.tar"], SourceOptions())
    with pytest.raises(InputError, match="no partition"):
        read([tmp_path], SourceOptions())
    path = tmp_path / "x.tar"
    path.write_text("not an archive" * 100)
    with pytest.raises(InputError, match="archive"):
        read([path], SourceOptions())
    archive(path, {"training/partition_0.tfrecord.gz": b"not a TFRecord file"})
    with pytest.raises(InputError, match="checksum"):
        read([path], SourceOptions())
    archive(tmp_path / "y.tar", {})
    with pytest.raises(InputError, match="several archives"):
        read([tmp_path], SourceOptions())


def test_the_published_counts_hold(shared_data: Path):
    log = read([shared_data / "kuairand1k_autocdsr"], SourceOptions())
    events = log.events.collect()
    split = events["user"].str.split("/").list.first()
    for name, sequences, size in (
        ("training", 3101, 2_480_800),
        ("evaluation", 1000, 800_000),
        ("testing", 1000, 800_000),
    ):
        part = events.filter(split == name)
        assert (part["user"].n_unique(), part.height) == (sequences, size)
    training = events.filter(split == "training")
    assert training.filter(training["item"] != "-1")["item"].n_unique() == 729_827
    kinds = {"9": 1_980_615, "4": 354_787, "0": 95_069, "8": 29_999, "7": 19_433, "11": 887, "1": 10}
    assert dict(training.group_by("domain").len().rows()) == kinds
    assert round(float((events["item"] == "-1").mean()), 2) == 0.23
    targets = events.filter(events["role"] == 2)
    assert targets.height == 1000
    assert dict(targets.group_by("domain").len().rows()) == {"9": 808, "4": 136, "0": 41, "8": 13, "7": 1, "11": 1}
    assert targets["item"].is_in(training["item"].unique().implode()).mean() == 0.817


@pytest.mark.slow
def test_all_of_it_is_prepared(shared_data: Path, tmp_path: Path):
    dataset = prepare("kuairand", [shared_data / "kuairand1k_autocdsr"], tmp_path / "out")
    counts = dataset.manifest.counts
    assert (counts.users, counts.sequences, counts.events) == (5101, 5101, 4_080_800)
    assert set(np.diff(dataset.sequence_offsets).tolist()) == {800}
    assert counts.roles["test"] == counts.roles["validation"] == 1000
