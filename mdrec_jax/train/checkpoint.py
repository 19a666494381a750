"""Checkpoints of a run: asynchronous, atomic, the latest few and the best one.

What the loop remembers besides arrays (best value, looks without a better one) is written as metadata of the same
checkpoint, so that both are always of one moment.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from mdrec_jax.errors import InputError
from mdrec_jax.train.state import TrainState


@dataclass
class Progress:
    """What the loop remembers. `best_step` is -1 as long as nothing was validated."""

    best_value: float = float("-inf")
    best_step: int = -1
    looks_without_better: int = 0
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


class _LatestAndBest:
    """Keep the `latest` newest checkpoints and the one of `best_step`."""

    def __init__(self, latest: int) -> None:
        self.latest = latest
        self.best_step = -1

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        newest = len(checkpoints) - self.latest
        return [i >= newest or c.step == self.best_step for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run folder; close it (or use `with`) to wait for the last one to be written."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._policy = _LatestAndBest(keep)
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(folder.absolute()), preservation_policy=self._policy, cleanup_tmp_directories=True
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step; None before the first."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, step: int, progress: Progress) -> None:
        """Start writing; returns when the arrays were copied, so that the step may go on and donate them."""
        if self.latest_step is not None and step <= self.latest_step:
            return
        self._policy.best_step = progress.best_step
        self._checkpointer.save_async(step, _detached(state), force=True, custom_metadata=progress.to_json())

    def restore(self, target: TrainState, step: int | None = None) -> tuple[TrainState, Progress]:
        """The state at `step` (the latest when None), laid out like `target` (abstract arrays with shardings).

        Raises:
            InputError: when there is no finished checkpoint, or it is damaged.
        """
        step = self.latest_step if step is None else step
        if step is None:
            raise InputError("no finished checkpoint", file=str(self._checkpointer.directory), expected="at least one")
        with self._reading(step):
            state = self._checkpointer.load(step, target)
        progress = self._progress(step)
        self._policy.best_step = progress.best_step
        return state, progress

    def best_step(self) -> int:
        """The step of the best checkpoint by validation (the latest one when nothing was validated).

        Raises:
            InputError: when there is no finished checkpoint, or the latest is damaged.
        """
        latest = self.latest_step
        if latest is None:
            raise InputError("no finished checkpoint", file=str(self._checkpointer.directory), expected="at least one")
        best = self._progress(latest).best_step
        return best if best >= 0 else latest

    def _progress(self, step: int) -> Progress:
        with self._reading(step):
            custom = self._checkpointer.metadata(step).custom_metadata
            assert isinstance(custom, dict)
            return Progress.from_json(custom)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Whatever is wrong with a file of a checkpoint, orbax and what is beneath it tell in many ways."""
        try:
            yield
        except Exception as error:
            raise InputError(
                "a damaged checkpoint",
                file=str(self._checkpointer.directory / str(step)),
                found=f"{type(error).__name__}: {error}",
                expected="what the run wrote there",
                hint="restore the folder, or remove it: then the checkpoint before it is the latest",
            ) from error

    def wait(self) -> None:
        self._checkpointer.wait()


def _detached(state: TrainState) -> TrainState:
    """On a CPU an array and its copy on the host are one buffer: copy it before a later step writes into it."""
    if jax.default_backend() != "cpu":
        return state
    return jax.tree.map(jnp.copy, state)
