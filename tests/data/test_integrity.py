"""Damage to a prepared dataset is found when it is opened; a manifest reaches no file outside its folder."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data import integrity
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.data.manifest import _seal, _text, combined_hash
from mdrec_jax.data.prepare.prepare import PrepareOptions, write_log
from mdrec_jax.errors import InputError
from tests.data.make import make_dataset, make_log, numbered


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "d", numbered(12, 6, 20, ("a", "c")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset counts as large, and an end of a file is 128 bytes: the header of a column."""
    monkeypatch.setattr(integrity, "QUICK_ABOVE", 0)
    monkeypatch.setattr(integrity, "END", 128)


def test_twenty_changed_bytes_are_each_found(dataset: Dataset) -> None:
    files = sorted(path for path in dataset.path.rglob("*") if path.is_file())
    chance = random.Random(7)
    for _ in range(20):
        file = chance.choice(files)
        before = file.read_bytes()
        data = bytearray(before)
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        file.write_bytes(data)
        with pytest.raises(InputError) as error:
            open_dataset(dataset.path)
        assert error.value.file == file
        file.write_bytes(before)
    assert open_dataset(dataset.path).manifest == dataset.manifest


def write_manifest(folder: Path, **fields: object) -> None:
    """A manifest with other fields, sealed as if it had been written so."""
    value = {**json.loads((folder / "manifest.json").read_text()), **fields}
    value.pop("seal")
    (folder / "manifest.json").write_text(_text({**value, "seal": _seal(value)}))


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"domains": "ab"}, "domains"),
        ({"domains": ["a", 3]}, "domains[1]"),
        ({"seed": "0"}, "seed"),
        ({"time_origin": 0.5}, "time_origin"),
        ({"has_time": 1}, "has_time"),
        ({"parents": None}, "parents"),
        ({"files": []}, "files"),
        ({"files": {"users.parquet": {"sha256": "0", "bytes": "1", "ends": "0"}}}, "files.users.parquet.bytes"),
        ({"counts": {"users": 1}}, "counts.sequences"),
        ({"motto": "more"}, "motto"),
    ],
)
def test_fields_of_another_type_are_refused_by_name(dataset: Dataset, fields: dict[str, object], column: str) -> None:
    write_manifest(dataset.path, **fields)
    with pytest.raises(InputError, match="damaged manifest") as error:
        open_dataset(dataset.path)
    assert error.value.column == column


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "columns/../../secret", "./users.parquet", ""])
def test_a_file_outside_the_folder_is_not_read(dataset: Dataset, name: str) -> None:
    (dataset.path.parent / "secret").write_text("x")
    files = {**dataset.manifest.files, name: integrity.describe(dataset.path.parent / "secret")}
    plain = {key: vars(value) for key, value in files.items()}
    write_manifest(dataset.path, files=plain, hash=combined_hash(files))
    with pytest.raises(InputError, match="damaged manifest") as error:
        open_dataset(dataset.path)
    assert error.value.found == name


def test_a_link_out_of_the_folder_is_not_followed(dataset: Dataset) -> None:
    users = dataset.path / "users.parquet"
    users.rename(dataset.path.parent / "users.parquet")
    users.symlink_to(dataset.path.parent / "users.parquet")
    with pytest.raises(InputError, match="damaged manifest"):
        open_dataset(dataset.path)
    linked = dataset.path.parent / "linked"
    users.unlink()
    (dataset.path.parent / "users.parquet").rename(users)
    linked.symlink_to(dataset.path)
    assert open_dataset(linked).hash == dataset.hash


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("item", 0),
        ("item", 10_000),
        ("domain", 2),
        ("event", -1),
        ("time", -5),
        ("role", 4),
        ("sequence_user", 0),
        ("sequence_offsets", 1),
    ],
)
def test_of_a_large_dataset_values_out_of_range_or_order_are_found(
    quick: None, tmp_path: Path, name: str, value: int
) -> None:
    make_dataset(tmp_path / "d", numbered(200, 6, 20, ("a", "c")))
    file = tmp_path / "d" / "columns" / f"{name}.npy"
    column = np.load(file)
    at = 128 + len(column) // 2 * column.itemsize
    data = bytearray(file.read_bytes())
    data[at : at + column.itemsize] = np.array(value, column.dtype).tobytes()
    assert integrity.END <= at < len(data) - integrity.END
    file.write_bytes(data)
    with pytest.raises(InputError, match="was changed") as error:
        open_dataset(tmp_path / "d")
    assert error.value.file == file
    assert "SHA" not in str(error.value)


def test_of_a_large_dataset_the_ends_of_files_are_hashed(quick: None, dataset: Dataset) -> None:
    for place in (3, -3):
        file = dataset.path / "columns" / "item.npy"
        before = file.read_bytes()
        data = bytearray(before)
        data[place] ^= 1
        file.write_bytes(data)
        with pytest.raises(InputError, match="was changed"):
            open_dataset(dataset.path)
        file.write_bytes(before)


def test_a_chain_of_extensions_is_known(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "0", numbered(12, 6, 20))
    chain = [first]
    for number in (1, 2):
        log = make_log(numbered(12 + number, 6, 20 + number))
        chain.append(write_log(log, "rows", tmp_path / str(number), PrepareOptions(), parent=chain[-1]))
    hashes, items = [one.hash for one in chain], [one.manifest.counts.items for one in chain]
    assert items[0] < items[1] < items[2]
    assert [parent.hash for parent in open_dataset(tmp_path / "2").manifest.parents] == hashes[:2]
    assert [chain[2].manifest.items_of(one) for one in hashes] == items
    assert [chain[1].manifest.items_of(one) for one in hashes] == [*items[:2], None]


def test_an_extended_dataset_seen_with_its_parents_items(tmp_path: Path) -> None:
    old = make_dataset(tmp_path / "old", numbered(12, 6, 20))
    log = make_log(numbered(14, 7, 30))
    new = write_log(log, "rows", tmp_path / "new", PrepareOptions(), parent=old)
    seen = new.with_first_items(old.manifest.counts.items)
    assert seen.num_items == old.num_items < new.num_items
    assert [ids.tolist() for ids in seen.domain_items] == [ids.tolist() for ids in old.domain_items]
    unknown = np.asarray(new.item) >= old.num_items
    assert unknown.any()
    assert set(seen.item[unknown].tolist()) == {1}
    assert set(seen.role[unknown].tolist()) == {3}
    np.testing.assert_array_equal(seen.item[~unknown], new.item[~unknown])
    np.testing.assert_array_equal(seen.role[~unknown], new.role[~unknown])
    names = new.items(0)["raw"].to_list()
    ids = seen.lookup_items(names, [new.manifest.domains[0]] * len(names))
    assert sorted(ids.tolist()) == sorted(
        [*old.domain_items[0].tolist(), *[1] * (len(names) - len(old.domain_items[0]))]
    )
    assert new.with_first_items(new.manifest.counts.items) is new
