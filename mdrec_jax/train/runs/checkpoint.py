"""Checkpoints of a run: asynchronous, atomic, the latest few and the best one.

What the loop remembers besides arrays (best value, validations without a better one) stands in the record of the same
checkpoint, so that both are always of one moment. The holder of the run's lock writes and cleans up (`Checkpoints`);
readers (`load_best`) change nothing and need no lock.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from mdrec_jax.errors import InputError
from mdrec_jax.terminal import say
from mdrec_jax.train.runs import sealed
from mdrec_jax.train.state import TrainState, check_finite, not_finite


@dataclass
class Progress:
    """What the loop remembers. `best_step` is -1 as long as nothing was validated."""

    best_value: float = float("-inf")
    best_step: int = -1
    validations_without_better: int = 0
    finished: bool = False
    window_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the metrics since the last line of the journal."""
    window_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        value = dataclasses.asdict(self)
        return {**value, "best_value": None if self.best_step < 0 else self.best_value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Progress":
        best = value["best_value"]
        return cls(**{**value, "best_value": float("-inf") if best is None else best})


KEPT = 2
"""Checkpoints that are kept beside the best."""


class Checkpoints:
    """The checkpoints of one run folder, to be written; whoever makes one holds the run's lock.

    Close it (or use `with`) to wait for the last one to be written.
    """

    def __init__(self, folder: Path, keep: int = KEPT) -> None:
        self._folder, self._keep = folder.absolute(), keep
        self._folder.mkdir(parents=True, exist_ok=True)
        sealed.clean(self._folder)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    @property
    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step; None before the first."""
        return max(sealed.steps(self._folder), default=None)

    def save(self, state: TrainState, step: int, progress: Progress) -> None:
        """Start writing; returns when the arrays were copied, so that the step may go on and donate them.

        Raises:
            NonFiniteError: naming the array; nothing is written.
        """
        self.wait()
        if self.latest_step is not None and step <= self.latest_step:
            return
        check_finite(state, step)
        response = ocp.save_async(str(self._folder / f"{sealed.SAVING}{step}"), _detached(state))
        self._pending = self._writer.submit(self._finish, response, step, progress.to_json(), progress.best_step)

    def _finish(self, response: Any, step: int, memory: dict[str, Any], best: int) -> None:
        """In the thread that writes: the checkpoint gets its name, then the ones that are not kept go."""
        response.result()
        sealed.seal(self._folder, step, memory)
        for old in sealed.steps(self._folder)[: -self._keep]:
            if old != best:
                sealed.discard_unless_read(self._folder, old)

    def restore(self, target: TrainState) -> tuple[TrainState, Progress]:
        """The newest whole state, laid out like `target` (abstract arrays with shardings).

        Damaged ones that are newer get another name, for the steps from there on will be written again.

        Raises:
            InputError: there is no checkpoint, or none of them is whole.
        """
        listed = sealed.steps(self._folder)
        step, state, damaged = _first_whole(self._folder, listed[::-1], listed, target, [])
        for other in damaged:
            sealed.set_aside(self._folder, other)
            say(f"renamed {self._folder / str(other)} to {other}{sealed.DAMAGED}", file=sys.stderr)
        return state, Progress.from_json(sealed.read_record(self._folder, step)["memory"])

    def wait(self) -> None:
        """Until the last checkpoint is written. Raises what its writing met."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def load_best(folder: Path, target: TrainState) -> tuple[TrainState, int]:
    """The state with the best validation (the newest when nothing was validated), and its step.

    A run may be training in the folder: a checkpoint that it removes meanwhile is looked for anew. A damaged one is
    told on standard error, and another is taken.

    Raises:
        InputError: there is no checkpoint, or none of them is whole.
    """
    folder = folder.absolute()
    while True:
        try:
            listed = _settled(folder)
            best, damaged = _best_of(folder, listed)
            step, state, _ = _first_whole(folder, [best, *listed[::-1]], listed, target, damaged)
            return state, step
        except _Gone:  # The trainer removed it, and it does so only when newer ones are there.
            continue


def latest_progress(folder: Path) -> tuple[int, Progress]:
    """The step of the newest checkpoint with a whole record, and what the loop remembered then.

    Raises:
        InputError: there is none.
    """
    folder = folder.absolute()
    while True:
        listed = _settled(folder)
        try:
            for step in reversed(listed):
                record = _unless_damaged(folder, step, listed, sealed.read_record)
                if record is not None:
                    return step, Progress.from_json(record["memory"])
        except _Gone:
            continue
        raise InputError("no whole checkpoint", file=folder, expected="at least one")


class _Gone(Exception):
    """A checkpoint was removed while it was read."""


def _settled(folder: Path) -> list[int]:
    """The steps that are there. A list that is read while one comes and one goes may lack both: two have to agree."""
    before = None
    while (now := sealed.steps(folder)) != before:
        before = now
    return now


def _best_of(folder: Path, listed: list[int]) -> tuple[int, list[int]]:
    """The step that the newest whole record calls the best (-1: none is whole), and the steps with damaged ones."""
    damaged: list[int] = []
    for step in reversed(listed):
        record = _unless_damaged(folder, step, listed, sealed.read_record)
        if record is not None:
            best = record["memory"]["best_step"]
            return (best if best >= 0 else step), damaged
        damaged.append(step)
    return -1, damaged


def _first_whole(
    folder: Path, order: Sequence[int], listed: list[int], target: TrainState, damaged: Sequence[int]
) -> tuple[int, TrainState, list[int]]:
    """The first step in `order` that is whole, its state, and the damaged ones, which are told on standard error.

    Raises:
        InputError: none is.
        _Gone: one was removed meanwhile.
    """
    found = list(damaged)
    for step in dict.fromkeys(order):
        if step in found or step < 0:
            continue
        state = _unless_damaged(folder, step, listed, lambda folder, step: _load(folder, step, target))
        if state is not None:
            if found:
                say(f"the checkpoint of step {step} is used instead", file=sys.stderr)
            return step, state, found
        found.append(step)
    if not found:
        raise InputError("no finished checkpoint", file=folder, expected="at least one")
    names = ", ".join(map(str, sorted(found)))
    hint = "restore the folder from a copy, or start a new run"
    raise InputError("no whole checkpoint", file=folder, found=f"damaged: {names}", expected="at least one", hint=hint)


def _load(folder: Path, step: int, target: TrainState) -> TrainState:
    with sealed.held(folder, step):
        sealed.verify(folder, step)
        state = ocp.load(str(folder / str(step)), target)
    if (name := not_finite(state)) is not None:
        expected = "finite parameters whose squares are finite"
        raise InputError("a diverged model", file=folder / str(step), column=name, expected=expected)
    return state


def _unless_damaged[T](folder: Path, step: int, listed: list[int], read: Callable[[Path, int], T]) -> T | None:
    """What `read` gives; None when the checkpoint is damaged or missing, which is told on standard error."""
    try:
        return read(folder, step)
    except InputError as error:
        if step in listed and not (folder / str(step)).exists():
            raise _Gone from error
        say(error, file=sys.stderr)
        return None


def _detached(state: TrainState) -> TrainState:
    """On a CPU an array and its copy on the host are one buffer: copy it before a later step writes into it."""
    if jax.default_backend() != "cpu":
        return state
    return jax.tree.map(jnp.copy, state)
