"""What training refuses before it makes anything, and what a full disk or a damaged file leaves of a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdrec_jax.errors import EXIT_BAD_INPUT, EXIT_DOES_NOT_FIT
from mdrec_jax.train.runs.run_folder import RunFolder, locked
from mdrec_jax.train.trained import load_run
from tests.command import mdrec

FULL = """
import resource, sys
from mdrec_jax.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def trained(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert mdrec("train", "quickstart", "--data", small_world, "--run", run, *FEW) == 0
    return run


FEW = (
    "--model.dim",
    "16",
    "--model.layers",
    "1",
    "--batching.rows",
    "8",
    "--train.epochs",
    "1",
    "--hardware.data",
    "1",
)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that has to refuse says; nothing of it goes to standard output."""
    capsys.readouterr()
    assert mdrec(*arguments) == EXIT_BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--train.metric", "auc"), "'train.metric': unknown metric"),
        (("--train.metric", "songs/ndcg@10"), "'train.metric': no such part of the results"),
        (("--train.protocol", "popular99"), "unknown protocol"),
        (("--train.protocol", "uniform5000"), "too few items to draw negatives from"),
        (("--train.protocol", "fixed:none"), "no such file of candidates"),
        (("--train.evaluate-every", "nan"), "'train.evaluate_every': out of range"),
        (("--optim.beta2", "nan"), "'optim.beta2': out of range"),
        (("--optim.dense.clip-norm", "-1"), "'optim.dense.clip_norm': out of range"),
        (("--optim.table.learning-rate", "inf"), "'optim.table.learning_rate': out of range"),
        (("--hardware.data", "99"), "'hardware.data': more devices"),
        (("--seed", "-1"), "'seed': out of range"),
        (("--seeds", "0,-1"), "'--seeds': not a list of seeds"),
        (("--seeds", "1,1"), "'--seeds': not a list of seeds"),
        (("--init-from", "nowhere"), "nowhere: no run here"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    given: tuple[str, str], message: str, small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    text = said(capsys, "train", "quickstart", "--data", small_world, "--run", run, *given)
    assert message in text
    assert ("found:" in text and "expected:" in text) or "--init-from" in given
    assert not run.exists()


def test_a_run_goes_to_no_place_that_is_taken(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for file in (tmp_path / "file", tmp_path / "photos" / "cat.jpg"):
        file.write_text("x")
    for name, message in (("photos", "cat.jpg"), ("file", "a file: "), ("file/run", "a file: ")):
        assert message in said(capsys, "train", "quickstart", "--data", small_world, "--run", tmp_path / name)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_run_folder_in_use_is_refused(
    more: tuple[str, ...], run: Path, small_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(RunFolder(run)):
        text = said(capsys, "train", "quickstart", "--data", small_world, "--run", run, *more)
    assert f"{run}: the run folder is in use" in text
    assert "process" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"config": ', "config.json: a damaged file"),
        ("config.json", "[]", "config.json: a damaged file"),
        ("config.json", '{"versions": {}}', "found:    versions"),
        ("state.json", '{"a', "state.json: a damaged file"),
        ("state.json", None, "state.json: a file is missing"),
    ],
)
def test_a_damaged_run_is_refused_by_the_files_name(
    name: str, content: str | None, message: str, run: Path, small_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    for command in (("evaluate", run), ("train", "quickstart", "--data", small_world, "--resume", "--run", run)):
        assert message in said(capsys, *command)


def test_a_field_that_no_longer_exists_is_named_with_its_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "config.json").read_text())
    record["config"]["model"]["hats"] = 3
    (run / "config.json").write_text(json.dumps(record))
    assert "config.json, column 'model.hats': no such field" in said(capsys, "evaluate", run)


def test_a_damaged_checkpoint_is_refused_and_can_be_removed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 2000:
            file.write_bytes(file.read_bytes()[:1000])
    text = said(capsys, "evaluate", run)
    assert "no whole checkpoint" in text
    assert str(run / "checkpoints") in text
    shutil.rmtree(run / "checkpoints")
    assert "no finished checkpoint" in said(capsys, "evaluate", run)


def test_a_run_that_was_killed_in_the_middle_of_a_line_can_be_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 4, "kin')
    assert mdrec("inspect", run) == 0
    (run / "metrics.jsonl").write_text('{"step": 4}\n')
    assert "metrics.jsonl, row 1: a damaged line" in said(capsys, "inspect", run)


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "config.json").read_text())
    record["config"]["optim"]["dense"]["learning_rate"] = 0.5
    (run / "config.json").write_text(json.dumps(record))
    text = said(capsys, "evaluate", trained, run)
    assert "'optim.dense.learning_rate': run 2 differs" in text


def full_disk(limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where no file may grow beyond `limit` bytes."""
    command = [sys.executable, "-c", FULL, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_full_disk_ends_a_run_with_a_message_and_it_goes_on_when_there_is_room(
    small_world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = ("train", "quickstart", "--data", small_world, "--run", run, *FEW)
    for limit in (1_000, 9_000):  # in the first file, and in the first checkpoint
        ended = full_disk(limit, *train)
        assert ended.returncode == EXIT_BAD_INPUT, ended.stderr
        assert "cannot be written" in ended.stderr
        assert "File too large" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert RunFolder(run).holds_a_run() == (limit == 9_000)
    assert mdrec(*train, "--resume") == 0
    assert load_run(run).step > 0


def test_a_disk_that_fills_up_with_lines_ends_a_run_too(small_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    often = ("--logging.every", "1", "--train.epochs", "0", "--train.steps", "150", "--train.evaluate-every", "90")
    train = ("train", "quickstart", "--data", small_world, "--run", run, *FEW, *often)
    ended = full_disk(6_000, *train)
    assert ended.returncode == EXIT_BAD_INPUT, ended.stderr
    assert "run: the run cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert mdrec(*train, "--resume") == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset", {}, "config.json, column 'dataset': a damaged file"),
        ("dataset", {"path": 3, "hash": "x"}, "config.json, column 'dataset': a damaged file"),
        ("dataset", None, "config.json, column 'dataset': a damaged file"),
        ("versions", ["jax"], "config.json, column 'versions': a damaged file"),
    ],
)
def test_a_record_that_is_damaged_within_is_told(
    field: str, value: object, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "config.json").read_text()) | {field: value}
    (run / "config.json").write_text(json.dumps(record))
    assert message in said(capsys, "inspect", run)
    if field == "dataset":
        assert message in said(capsys, "evaluate", run)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"step": "7", "kind": "train"}',
        '{"step": 7, "kind": 3}',
        '{"step": 7, "kind": "train", "loss": []}',
        "[7]",
    ],
)
def test_a_damaged_line_of_the_journal_is_told_by_its_row(
    line: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([rows[0], line, *rows[1:]]) + "\n")
    assert "metrics.jsonl, row 2: a damaged line" in said(capsys, "inspect", run)


def test_a_metric_that_no_look_holds_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "config.json").read_text())
    record["config"]["train"]["metric"] = "hr@7"
    (run / "config.json").write_text(json.dumps(record))
    assert mdrec("inspect", run) == 0
    assert "validation hr@7: in none of" in capsys.readouterr().out


@pytest.mark.parametrize("more", [("--model.dim", "1000000000"), ("--batching.rows=1000000000000",)])
def test_sizes_that_fit_nowhere_are_refused(
    more: tuple[str, ...], small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("train", "quickstart", "--data", small_world, "--run", tmp_path / "run", *more)
    assert mdrec(*given) == EXIT_DOES_NOT_FIT
    assert "does not fit into memory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_preset_and_its_fields(
    run: Path, small_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("train", "--data", small_world, "--run", run, "--resume")
    assert "begun with another preset" in said(capsys, "train", "beauty", *given[1:])
    text = said(capsys, *given, "--model.dim", "32")
    assert "model.dim" in text
    assert "Traceback" not in text
    assert mdrec("train", "quickstart", *given[1:]) == 0
    assert mdrec("inspect", run) == 0
    assert "preset quickstart; set otherwise: batching.rows=8" in capsys.readouterr().out
