"""Whether a run came to its end: the last step of its schedule, or the end of its patience."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mdrec_jax.errors import InputError
from mdrec_jax.files import read_object
from mdrec_jax.terminal import say
from mdrec_jax.train.runs.checkpoint import latest_progress
from mdrec_jax.train.runs.run_folder import STEPS, RunFolder
from mdrec_jax.train.trained import TrainedRun


@dataclass(frozen=True)
class Ending:
    """
    Args:
        done: steps, as the newest whole checkpoint has it.
        planned: steps of the schedule.
        patience: whether it ran out: such a run is a whole one.
    """

    done: int
    planned: int
    patience: bool

    @property
    def whole(self) -> bool:
        return self.patience or self.done >= self.planned

    def length(self) -> dict[str, float]:
        """What a results file says of a run that is not whole."""
        return {} if self.whole else {"stopped_at": self.done, "planned": self.planned}


def ending(run: TrainedRun) -> Ending:
    """How far a run came. Raises InputError where its record is damaged."""
    folder, patience = RunFolder(run.path), run.setup.config.train.patience
    planned = read_object(folder.config).get(STEPS, run.setup.plan.steps)
    if not isinstance(planned, int):
        raise InputError("a damaged file", file=folder.config, column=STEPS, found=planned, expected="a number")
    done, progress = latest_progress(folder.checkpoints)
    return Ending(done, planned, 0 < patience <= progress.looks_without_better)


def check_ended(runs: Sequence[TrainedRun]) -> list[Ending]:
    """Refuses a mean over runs one of which stopped before its end; what ended early is told.

    Raises:
        InputError: naming the first of them.
    """
    ends = [ending(run) for run in runs]
    for run, end in zip(runs, ends, strict=True):
        far = f"step {end.done:,} of {end.planned:,}"
        if not end.whole and len(runs) > 1:
            raise InputError(
                "a run that did not come to its end is no seed of a mean",
                file=run.path,
                found=far,
                expected="the last step of its schedule, or the end of its patience",
                hint=f"go on with it: mdrec train --resume --run {run.path}; or evaluate it by itself",
            )
        if not end.whole:
            say(f"note: {run.path} did not come to its end: {far}, and the schedule was made for all", file=sys.stderr)
        elif end.done < end.planned:
            say(f"{run.path} ended at {far}, where its patience ran out", file=sys.stderr)
    return ends
