"""Event files for TensorBoard, written by the thread that trains.

tensorboardX's own `SummaryWriter` hands events to a second thread: on a full disk that one ends, and the run waits for
it for ever.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]


class Board:
    """One event file in a folder; close it when the run ends.

    Args:
        folder: where it goes.
        purge_step: TensorBoard forgets what earlier files say of this step and those after it.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """`kind`/NAME for every value. Raises OSError where the disk is full."""
        named = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=named)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
