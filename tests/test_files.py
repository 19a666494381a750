import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.data.prepare.prepare import PrepareOptions, prepare
from mdrec_jax.errors import InputError
from mdrec_jax.files import open_in_place, replacing, write_json
from mdrec_jax.train.runs.journal import Journal
from mdrec_jax.train.runs.run_folder import RunFolder, locked


@pytest.fixture(params=[0o022, 0o077, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _break_off(part: Path) -> None:
    part.write_text("half")
    raise RuntimeError("half way")


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"a": 1})
    before = target.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), replacing(target) as part:
        _break_off(part)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_new_file_has_what_the_umask_leaves_and_an_old_one_what_it_had(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"a": 1})
    assert mode(target) == 0o666 & ~umask
    for chosen in (0o600, 0o640, 0o644, 0o664):
        target.chmod(chosen)
        write_json(target, {"a": chosen})
        assert mode(target) == chosen


def test_what_is_being_written_is_open_to_nobody_who_may_not_read_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {})
    (tmp_path / "file.json").chmod(0o600)
    with replacing(tmp_path / "file.json") as part:
        assert mode(part) == 0o600
        pl.DataFrame({"a": [1]}).write_parquet(part)
        with part.open("wb") as file:
            np.save(file, np.zeros(2))
        assert mode(part) == 0o600


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    target = tmp_path / "states.npz"
    target.write_text("")
    target.chmod(0o644)
    with replacing(target, private=True) as part:
        assert mode(part) == 0o600
    assert mode(target) == 0o600


def test_a_data_set_keeps_its_folders_permissions_and_its_users_private(tmp_path: Path, umask: int) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"u,i{n},{n}\n" for n in range(5)))
    options, out = PrepareOptions(min_user=1, min_item=1), tmp_path / "out"
    for expected in (0o777 & ~umask, 0o700):
        prepare("csv", [tmp_path / "log.csv"], out, options)
        assert mode(out) == expected
        assert mode(out / "users.parquet") == 0o600
        for file in ("manifest.json", "columns/item.npy", "items/main.parquet"):
            assert mode(out / file) == 0o666 & ~umask
        out.chmod(0o700)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "file.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "file.json", {})
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "file.json").is_symlink()


@pytest.mark.parametrize("name", ["lock", "metrics.jsonl", "timing.jsonl"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_no_link_in_a_run_folder_is_written_through(tmp_path: Path, name: str, kind: str) -> None:
    precious, folder = tmp_path / "precious", RunFolder(tmp_path / "run")
    folder.path.mkdir()
    if kind == "pipe":
        os.mkfifo(folder.path / name)
    elif kind == "folder":
        (folder.path / name).mkdir()
    else:
        (folder.path / name).symlink_to(precious)
    if kind == "link":
        precious.write_text("kept")
    with pytest.raises(InputError, match=f"{name}: will not be written to"), locked(folder):
        Journal(folder, tensorboard=False)
    assert precious.read_text() == "kept" if kind == "link" else not precious.exists()


def test_a_file_in_place_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        with open_in_place(tmp_path / "log") as file:
            file.write("a\n")
    assert (tmp_path / "log").read_text() == "a\na\n"


def test_a_name_may_be_long(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127):
        write_json(tmp_path / name, {})
    assert len(list(tmp_path.iterdir())) == 2


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    target = tmp_path / "file[1].json"
    code = (
        "import os, sys; from pathlib import Path; from mdrec_jax.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as part: part.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for path in (target, tmp_path / "other.json"):
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert len(list(tmp_path.glob(".*.part"))) == 2
    with replacing(target) as one, replacing(target) as two:  # writers that live keep theirs
        assert one.exists()
        assert two.exists()
    assert [path.name.startswith(".other.json.") for path in tmp_path.glob(".*.part")] == [True]
