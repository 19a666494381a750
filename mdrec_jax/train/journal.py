"""The lines that a run leaves behind.

`metrics.jsonl` holds what the seed determines (losses, validation), so two equal runs leave equal files;
`timing.jsonl` holds what the machine determines. Both go to TensorBoard too.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from mdrec_jax.files import replacing
from mdrec_jax.train.run_folder import RunFolder


class Journal:
    """Appends lines; a resumed run first cuts its files back to the step it resumes from."""

    def __init__(self, folder: RunFolder, *, tensorboard: bool, resume_step: int | None = None) -> None:
        if resume_step is not None:
            for path in (folder.metrics, folder.timing):
                _cut_back(path, resume_step)
        self._metrics = folder.metrics.open("a", encoding="utf-8")
        self._timing = folder.timing.open("a", encoding="utf-8")
        self._board = _board(folder.tensorboard, resume_step) if tensorboard else None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._metrics.close()
        self._timing.close()
        if self._board is not None:
            self._board.close()

    def metrics(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line of `metrics.jsonl`; `kind` is `train` or `validation`."""
        self._write(self._metrics, step, kind, values)

    def timing(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line of `timing.jsonl`."""
        self._write(self._timing, step, kind, values)

    def _write(self, file: Any, step: int, kind: str, values: dict[str, float]) -> None:
        file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _board(folder: Path, resume_step: int | None) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)


def _cut_back(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill left unfinished."""
    if not path.exists():
        return
    with replacing(path) as part, part.open("w", encoding="utf-8") as kept:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # Only the last line can be cut short: lines are appended whole and in order.
            if record["step"] <= step:
                kept.write(line + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
