from pathlib import Path

import pytest

from mdrec_jax.files import replacing, write_json


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
