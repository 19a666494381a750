"""The lines that a run leaves behind.

`metrics.jsonl` holds what the seed determines (losses, validation), so two equal runs leave equal files;
`timing.jsonl` holds what the machine determines. Both go to TensorBoard too, in event files that the thread that
trains writes: tensorboardX's own `SummaryWriter` hands events to a second thread, which ends on a full disk, and the
run then waits for it for ever.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard

from mdrec_jax.errors import InputError
from mdrec_jax.files import open_in_place, replacing
from mdrec_jax.train.runs.run_folder import RunFolder


class Journal:
    """Appends lines; a resumed run first cuts its files back to the step it resumes from."""

    def __init__(self, folder: RunFolder, *, tensorboard: bool, resume_step: int | None = None) -> None:
        if resume_step is not None:
            for path in (folder.metrics, folder.timing):
                _cut_back(path, resume_step)
        with ExitStack() as opened:
            self._metrics = opened.enter_context(open_in_place(folder.metrics))
            self._timing = opened.enter_context(open_in_place(folder.timing))
            self._board = None
            if tensorboard:
                board = _Board(folder.tensorboard, None if resume_step is None else resume_step + 1)
                self._board = opened.enter_context(closing(board))
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


class _Board:
    """One event file for TensorBoard; close it when the run ends.

    tensorboardX is imported here: it takes a second, and most commands write no events.

    Args:
        folder: where it goes.
        purge_step: TensorBoard forgets what earlier files say of this step and those after it.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = EventsWriter(str(folder / "events"))
        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        if purge_step is not None:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(purge_step, session_log=start)

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """`kind`/NAME for every value. Raises OSError where the disk is full."""
        named = [self._summary.Summary.Value(tag=f"{kind}/{name}", simple_value=one) for name, one in values.items()]
        self._write(step, summary=self._summary.Summary(value=named))
        self._writer.flush()

    def _write(self, step: int, **what: Any) -> None:
        self._writer.write_event(self._event.Event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        self._writer.close()


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
