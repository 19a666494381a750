"""What opening a dataset refuses, and what a kill or a full disk leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdrec_jax.data import atomic_folder as swap
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.data.manifest import read_manifest
from mdrec_jax.data.prepare.prepare import PrepareOptions
from mdrec_jax.errors import InputError
from tests.data.make import make_dataset, numbered

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", numbered(12, 6, 20, ("a%b", "c")))


def change_manifest(folder: Path, **fields) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_an_opened_dataset_is_the_one_that_was_written(dataset):
    again = open_dataset(dataset.path, verify=True)
    assert again.manifest == dataset.manifest
    assert again.hash == dataset.hash == read_manifest(dataset.path).hash
    assert again.manifest.domains == ("a%b", "c")
    assert len(again.items("a%b")) + len(again.items("c")) == again.num_items - 2
    spec = again.spec
    assert (spec.num_items, spec.num_domains, spec.num_events, spec.has_time) == (again.num_items, 2, 1, True)


def test_users_are_found_by_their_raw_id(dataset):
    raw = dataset.users()["raw"].to_list()
    assert dataset.lookup_users([raw[3], "nobody"]).tolist() == [3, -1]


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_what_is_no_dataset_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no such folder|not a prepared dataset"):
        open_dataset(tmp_path / folder)


def test_another_schema_version_is_refused(dataset):
    change_manifest(dataset.path, schema=1)
    with pytest.raises(InputError, match="another schema version") as error:
        open_dataset(dataset.path)
    assert (error.value.column, error.value.found, error.value.expected) == ("schema", 1, "2")


def test_a_damaged_manifest_is_refused(dataset):
    change_manifest(dataset.path, hash="0" * 64)
    with pytest.raises(InputError, match="changed manifest"):
        open_dataset(dataset.path)
    (dataset.path / "manifest.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match="changed manifest"):
        open_dataset(dataset.path)
    (dataset.path / "manifest.json").write_text('{"schema"')
    with pytest.raises(InputError, match="damaged manifest"):
        open_dataset(dataset.path)


def test_a_missing_or_changed_file_is_refused(dataset):
    file = dataset.path / "columns" / "item.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    with pytest.raises(InputError, match="was changed") as error:
        open_dataset(dataset.path)
    assert error.value.file == file
    file.write_bytes(content[:-4] + b"abcd")
    with pytest.raises(InputError, match="was changed"):
        open_dataset(dataset.path)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        open_dataset(dataset.path)


def test_an_unknown_domain_is_refused(dataset):
    for ask in (dataset.domain_index, dataset.items, lambda name: dataset.lookup_items(["i1"], [name])):
        with pytest.raises(InputError, match="unknown domain"):
            ask("b")


def test_an_output_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    rows = numbered(12, 6, 20)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for out in ("notes", "file"):
        with pytest.raises(InputError, match=r"holds something else|not a folder"):
            make_dataset(tmp_path / out, rows)
    make_dataset(tmp_path / "d", rows)
    (tmp_path / "d" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        make_dataset(tmp_path / "d", rows)
    assert (tmp_path / "d" / "thesis.txt").exists()
    assert (tmp_path / "notes" / "thesis.txt").exists()


def test_an_empty_folder_and_an_old_dataset_are_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    old = make_dataset(tmp_path / "d", numbered(12, 6, 20))
    new = make_dataset(tmp_path / "d", numbered(14, 6, 20))
    assert open_dataset(tmp_path / "d", verify=True).hash == new.hash != old.hash
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_bad_input_leaves_the_old_dataset(tmp_path):
    old = make_dataset(tmp_path / "d", numbered(12, 6, 20))
    with pytest.raises(InputError):
        make_dataset(tmp_path / "d", numbered(12, 6, 20), PrepareOptions(min_user=100))
    assert open_dataset(tmp_path / "d", verify=True).hash == old.hash
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_two_renames_are_mended_where_a_file_system_cannot_exchange_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(swap, "_exchange_at_once", lambda *_: False)
    old = make_dataset(tmp_path / "d", numbered(12, 6, 20))
    new = make_dataset(tmp_path / "d", numbered(14, 6, 20))
    assert new.hash != old.hash
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    (tmp_path / "d").rename(tmp_path / ".d.previous")  # what a kill between the renames leaves
    assert open_dataset(tmp_path / "d", verify=True).hash == new.hash


def run_python(code: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **options)


def test_a_full_disk_leaves_the_old_dataset(tmp_path):
    old = make_dataset(tmp_path / "d", numbered(12, 6, 20))
    # The limit is set by the child itself: `preexec_fn` would fork this process, whose JAX has threads.
    code = f"""
import resource, sys
from pathlib import Path
from mdrec_jax.data.manifest import read_manifest
from mdrec_jax.errors import InputError
from tests.data.make import make_dataset, numbered
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
try:
    make_dataset(Path({str(tmp_path / "d")!r}), numbered(2000, 12, 500))
except InputError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    for limit in (100, 4_000, 20_000, 90_000):  # the last one lets most files through
        process = run_python(code.replace("LIMIT,", f"{limit},").replace("LIMIT)", f"{limit})"), stdout=subprocess.PIPE)
        message = process.communicate()[0]
        assert process.returncode == 2, message
        assert "cannot write the dataset" in message
        assert open_dataset(tmp_path / "d", verify=True).hash == old.hash
        assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_dataset(tmp_path):
    rows = {name: numbered(users, 8, 200) for name, users in (("one", 300), ("two", 310))}
    hashes = {make_dataset(tmp_path / name, events).hash for name, events in rows.items()}
    target = tmp_path / "work" / "d"
    make_dataset(target, rows["one"])
    code = f"""
from pathlib import Path
from tests.data.make import make_dataset, numbered
rows = [numbered(users, 8, 200) for users in (310, 300)]
print("ready", flush=True)
while True:
    for one in rows:
        make_dataset(Path({str(target)!r}), one)
"""
    rng = random.Random(0)
    for _ in range(6):
        process = run_python(code, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert open_dataset(target, verify=True).hash in hashes
    make_dataset(target, rows["one"])
    assert [path.name for path in target.parent.iterdir()] == ["d"]
