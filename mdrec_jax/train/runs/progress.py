"""What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere. All on stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mdrec_jax.terminal import console


class Bar:
    """A progress bar with loss, targets a second and the time left."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} targets/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("train", total=total, completed=done, loss=float("nan"), rate=0.0)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, step: int, loss: float, targets_per_second: float) -> None:
        self._progress.update(self._task, completed=step, loss=loss, rate=targets_per_second)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)


class Lines:
    """For a log file: a line every half minute, and everything that is said."""

    def __init__(self, console: Console, total: int, every_s: float = 30.0) -> None:
        self._console, self._total, self._every = console, total, every_s
        self._last = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def update(self, step: int, loss: float, targets_per_second: float) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self.say(f"step {step}/{self._total}  loss {loss:.4f}  {targets_per_second:,.0f} targets/s")

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def display(total: int, done: int) -> Bar | Lines:
    """A bar when stderr is a terminal, lines otherwise."""
    shown = console(stderr=True)
    return Bar(shown, total, done) if sys.stderr.isatty() else Lines(shown, total)
