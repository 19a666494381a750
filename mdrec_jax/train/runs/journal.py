"""The lines that a run leaves behind.

`metrics.jsonl` holds what the seed determines (losses, validation), so two equal runs leave equal files;
`timing.jsonl` holds what the machine determines. Both go to TensorBoard too.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeGuard

from mdrec_jax.errors import InputError
from mdrec_jax.files import open_in_place, replacing
from mdrec_jax.train.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mdrec_jax.train.runs.board import Board


class Journal:
    """Appends lines; a resumed run first cuts its files back to the step it resumes from."""

    def __init__(self, folder: RunFolder, *, tensorboard: bool, resume_step: int | None = None) -> None:
        if resume_step is not None:
            for path in (folder.metrics, folder.timing):
                _cut_back(path, resume_step)
        with ExitStack() as opened:
            self._metrics = opened.enter_context(open_in_place(folder.metrics))
            self._timing = opened.enter_context(open_in_place(folder.timing))
            self._board = opened.enter_context(closing(_board(folder, resume_step))) if tensorboard else None
            self._opened = opened.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened.__exit__(kind, error, at)

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
            self._board.scalars(step, kind, values)


def _board(folder: RunFolder, resume_step: int | None) -> "Board":
    from mdrec_jax.train.runs.board import Board

    return Board(folder.tensorboard, None if resume_step is None else resume_step + 1)


def _cut_back(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill left unfinished."""
    if not path.exists():
        return
    with replacing(path) as part, part.open("w", encoding="utf-8") as kept:
        for line, record in _whole_lines(path):
            if record["step"] <= step:
                kept.write(line + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal file, without a last one that a kill left unfinished, or that is just being written.

    Raises:
        InputError: something else in a line.
    """
    return [record for _, record in _whole_lines(path)]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for row, line in enumerate(lines[:-1], 1):  # Lines are appended in order: only the last can be cut short.
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not _whole(record):
            expected = "a JSON object with step (a whole number), kind (a word), and numbers"
            raise InputError("a damaged line", file=path, row=row, found=line, expected=expected)
        yield line, record


def _whole(record: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(record, dict) or type(record.get("step")) is not int or type(record.get("kind")) is not str:
        return False
    return all(type(value) in (int, float) for name, value in record.items() if name not in ("step", "kind"))
