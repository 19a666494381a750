"""The loop around the step: data in, steps dispatched ahead, validation, checkpoints, and a clean stop."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import jax

from mdrec_jax.config import RunConfig
from mdrec_jax.errors import EXIT_INTERRUPTED, MdrecError, NonFiniteError
from mdrec_jax.train.runs.checkpoint import Checkpoints, Progress
from mdrec_jax.train.runs.journal import Journal
from mdrec_jax.train.runs.progress import Bar, Lines
from mdrec_jax.train.state import TrainState, check_finite
from mdrec_jax.train.step import Metrics

FEW_STEPS = 200
"""A run of fewer steps learns little."""

type Validate = Callable[[TrainState], dict[str, float]]
"""State -> metric name -> value, on the validation split."""
type Recalibration = Callable[[TrainState], TrainState]
"""State -> the state that is validated, kept and trained on."""


@dataclass(frozen=True)
class RunPlan:
    """When things happen, in steps."""

    steps: int
    """The last one; the learning rate's fall ends there."""
    evaluate_every: int
    log_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, config: RunConfig, steps_per_epoch: int) -> "RunPlan":
        by_epochs = math.ceil(config.train.epochs * steps_per_epoch) or math.inf
        steps = int(min(by_epochs, config.train.steps or math.inf))
        every = max(1, round(config.train.evaluate_every * steps_per_epoch))
        return cls(steps, every, config.logging.every, config.logging.checkpoint_every)

    def evaluates_at(self, step: int) -> bool:
        return step == self.steps or step % self.evaluate_every == 0

    def notes(self, config: RunConfig, steps_per_epoch: int) -> list[str]:
        """What a person should know of a run that is so short that it can learn little."""
        if self.steps >= FEW_STEPS:
            return []
        batching = config.batching
        return [
            f"note: {self.steps:,} steps in all, {steps_per_epoch:,} an epoch (a batch holds {batching.rows} rows of "
            f"{batching.row_length} events), are few to learn from; smaller batches (--batching.rows "
            f"{max(1, batching.rows // 4)}) and more passes (--train.epochs) make more of them"
        ]


class Interrupted(MdrecError):
    """The run was asked to stop; a checkpoint was left."""

    exit_code = EXIT_INTERRUPTED


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT arrived; the loop asks after each step. A second SIGINT stops at once."""
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass
class Window:
    """Sums of the metrics since the last line of the journal; a checkpoint holds them, so kills change no line."""

    sums: dict[str, float]
    steps: int

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()}


@dataclass
class Loop:
    """One run in progress. `run` is called once."""

    plan: RunPlan
    step_function: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    recalibrate: Recalibration
    validate: Validate
    metric: str
    patience: int
    checkpoints: Checkpoints
    journal: Journal
    display: Bar | Lines

    def run(self, state: TrainState, progress: Progress, batches: Iterator[Any]) -> tuple[TrainState, Progress]:
        """Train to the end of the plan or until patience runs out.

        Raises:
            NonFiniteError: naming the step; the checkpoints before it are kept.
            Interrupted: after SIGTERM or SIGINT, when the checkpoint is written.
        """
        step = int(state.step)
        window = Window(dict(progress.window_sums), progress.window_steps)
        pending: tuple[int, Metrics] | None = None
        clock = _Clock()
        with stop_requested() as stopping:
            while step < self.plan.steps and not progress.finished:
                state, metrics = self.step_function(state, next(batches))
                step += 1
                if pending is not None:  # Read the last step's numbers while this one computes.
                    self._read(*pending, window, clock)
                pending = (step, metrics)
                if not self._something_due(step, stopping()):
                    continue
                self._read(*pending, window, clock)
                pending = None
                if self.plan.evaluates_at(step):
                    with clock.paused(), self._naming_what_is_kept():
                        check_finite(state, step)
                        state = self.recalibrate(state)
                with self._naming_what_is_kept():
                    self._due(step, state, progress, window, clock)
                    if stopping():
                        self.checkpoints.save(state, step, progress)
                if stopping():
                    self.checkpoints.wait()
                    raise Interrupted(f"interrupted after step {step}; continue with --resume")
        self.checkpoints.wait()
        return state, progress

    def _something_due(self, step: int, stopping: bool) -> bool:
        plan = self.plan
        saves = plan.checkpoint_every and step % plan.checkpoint_every == 0
        return bool(stopping or saves or step % plan.log_every == 0 or plan.evaluates_at(step))

    def _due(self, step: int, state: TrainState, progress: Progress, window: Window, clock: "_Clock") -> None:
        plan = self.plan
        if step % plan.log_every == 0:
            self.journal.metrics(step, "train", window.means())
            self.journal.timing(step, "train", {"targets_per_second": clock.rate(), "seconds": clock.training})
            window.sums, window.steps = {}, 0
        progress.window_sums, progress.window_steps = dict(window.sums), window.steps
        if plan.evaluates_at(step):
            with clock.paused():
                self._validate(step, state, progress)
        if plan.evaluates_at(step) or (plan.checkpoint_every and step % plan.checkpoint_every == 0):
            self.checkpoints.save(state, step, progress)

    def _validate(self, step: int, state: TrainState, progress: Progress) -> None:
        started = time.perf_counter()
        check_finite(state, step)
        values = self.validate(state)
        better = values[self.metric] > progress.best_value
        if better:
            progress.best_value, progress.best_step, progress.validations_without_better = values[self.metric], step, 0
        else:
            progress.validations_without_better += 1
        progress.finished = bool(self.patience) and progress.validations_without_better >= self.patience
        self.journal.metrics(step, "validation", values)
        self.journal.timing(step, "validation", {"seconds": time.perf_counter() - started})
        mark = "  *" if better else ""
        self.display.say(f"step {step}: validation {self.metric} {values[self.metric]:.4f}{mark}")

    def _read(self, step: int, metrics: Metrics, window: Window, clock: "_Clock") -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            with self._naming_what_is_kept():
                raise NonFiniteError(f"the loss is {values['loss']} at step {step} (batch {step - 1})")
        window.add(values)
        clock.count(values["targets"])
        self.display.update(step, values["loss"], clock.rate())

    @contextmanager
    def _naming_what_is_kept(self) -> Iterator[None]:
        """A run that diverges says which checkpoint from before is left."""
        try:
            yield
        except NonFiniteError as error:
            self.checkpoints.wait()
            kept = self.checkpoints.latest_step
            left = "no checkpoint was written yet" if kept is None else f"the checkpoint of step {kept} is kept"
            raise NonFiniteError(f"{error}; {left}") from error


class _Clock:
    """Targets a second of training: validation and the first step (compilation) stand apart."""

    def __init__(self) -> None:
        self.training = 0.0
        self._targets = 0.0
        self._since: float | None = None

    def count(self, targets: float) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.training += now - self._since
            self._targets += targets
        self._since = now

    def rate(self) -> float:
        return self._targets / self.training if self.training else 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - started
