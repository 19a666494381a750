"""What no check has foreseen ends in one line and a file; what the system refuses, in a message."""

import os
import resource
import signal
import stat
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mdrec_jax.errors import EXIT_BAD_INPUT, EXIT_DOES_NOT_FIT, EXIT_UNEXPECTED, InputError
from mdrec_jax.files import replacing
from tests.command import mdrec


class PanicException(BaseException):
    """As Rust's, which is no Exception."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyError("ndcg@10"), EXIT_UNEXPECTED, "an error that was not foreseen: KeyError: 'ndcg@10'"),
        (RecursionError("too\ndeep"), EXIT_UNEXPECTED, "RecursionError: too deep"),
        (PanicException("range end index 8"), EXIT_UNEXPECTED, "PanicException: range end index 8"),
        (MemoryError(), EXIT_DOES_NOT_FIT, "does not fit into memory: MemoryError"),
        (RuntimeError("RESOURCE_EXHAUSTED: 40 GiB"), EXIT_DOES_NOT_FIT, "does not fit into memory"),
    ],
)
def test_one_line_and_a_file_with_the_traceback(
    error: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("mdrec_jax.data.dataset.open_dataset", fails)
    assert mdrec("baselines", "some where") == code
    shown = capsys.readouterr()
    (log,) = tmp_path.iterdir()
    assert said in shown.err
    assert str(log) in shown.err
    assert len(shown.err.splitlines()) == 1
    text = log.read_text()
    assert "mdrec baselines 'some where'" in text
    assert "in fails" in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_what_ends_the_process_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(BaseException):
        pass

    def fails(*_: object, **__: object) -> None:
        raise Other

    monkeypatch.setattr("mdrec_jax.data.dataset.open_dataset", fails)
    with pytest.raises(Other):
        mdrec("baselines", "x")


@pytest.mark.parametrize("kind", ["parquet", "csv", "ndjson"])
def test_a_full_disk_is_told_whichever_library_writes(kind: str, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1][1]))
    try:
        with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / "a") as part:
            getattr(pl.DataFrame({"a": np.arange(90_000) ** 2}), f"write_{kind}")(part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_not_the_systems_pass_a_write(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "a"):
        raise KeyError("os error")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything may be read by root")
@pytest.mark.parametrize("command", ["inspect", "evaluate", "baselines"])
def test_a_folder_that_may_not_be_read_is_told(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0)
    try:
        assert mdrec(command, tmp_path) == EXIT_BAD_INPUT
        assert "Permission denied" in capsys.readouterr().err
    finally:
        tmp_path.chmod(0o700)
