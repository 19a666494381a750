"""When a run is validated, what it keeps as the best, and when it stops: the loop by itself, on given values."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import pytest

from mdrec_jax.errors import NonFiniteError
from mdrec_jax.train.loop import Loop, RunPlan
from mdrec_jax.train.runs.checkpoint import Progress
from mdrec_jax.train.state import TrainState
from tests.train.states import state_at

PLAN = RunPlan(steps=12, evaluate_every=2, log_every=5, checkpoint_every=0)


@dataclass
class Notes:
    """Stands for the checkpoints, the journal and the display: it writes down what it is told."""

    saved: list[tuple[int, int]] = field(default_factory=list)
    """Step, and the step of the best look by then."""
    lines: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    latest_step: int | None = None

    def save(self, state: TrainState, step: int, progress: Progress) -> None:
        assert int(state.step) == step
        self.saved.append((step, progress.best_step))

    def metrics(self, step: int, kind: str, values: dict[str, float]) -> None:
        self.lines.append((step, kind, values))

    def wait(self) -> None: ...
    def timing(self, *told: Any) -> None: ...
    def update(self, *told: Any) -> None: ...
    def say(self, text: str) -> None: ...


def run(
    looks: list[float], patience: int, progress: Progress | None = None, plan: RunPlan = PLAN
) -> tuple[int, Progress, Notes]:
    """The last step, the progress and the notes of a run whose looks have these values."""
    notes, values = Notes(), iter(looks)

    def step(state: TrainState, batch: int) -> tuple[TrainState, dict[str, Any]]:
        assert int(state.step) == batch, "batch after batch"
        loss = jnp.float32(batch + 1)
        return replace(state, step=state.step + 1), {"loss": loss, "targets": jnp.float32(3)}

    def validate(state: TrainState) -> dict[str, float]:
        return {"mrr": next(values), "ndcg@10": 0.5}

    given: Any = notes
    loop = Loop(plan, step, lambda state: state, validate, "mrr", patience, given, given, given)
    state, progress = loop.run(state_at(0), progress or Progress(), iter(range(100)))
    assert next(values, None) is None, "every look was taken"
    return int(state.step), progress, notes


def test_a_run_stops_after_so_many_validations_without_a_better_one_and_keeps_the_best() -> None:
    step, progress, notes = run([0.1, 0.3, 0.2, 0.25], patience=2)
    assert step == 8
    assert (progress.best_value, progress.best_step, progress.finished) == (0.3, 4, True)
    assert notes.saved == [(2, 2), (4, 4), (6, 4), (8, 4)]


def test_a_better_look_starts_the_count_anew_and_an_equal_one_is_no_better() -> None:
    step, progress, _ = run([0.1, 0.05, 0.2, 0.2, 0.2], patience=2)
    assert (step, progress.best_step) == (10, 6)


def test_without_patience_a_run_goes_to_its_end_whatever_the_looks_say() -> None:
    step, progress, notes = run([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], patience=0)
    assert (step, progress.best_step, progress.finished) == (12, 2, False)
    assert progress.validations_without_better == 5
    assert [step for step, _ in notes.saved] == [2, 4, 6, 8, 10, 12]


def test_a_run_that_goes_on_counts_the_looks_from_before() -> None:
    before = Progress(best_value=0.5, best_step=1, validations_without_better=1)
    step, progress, _ = run([0.4], patience=2, progress=before)
    assert (step, progress.best_value, progress.best_step) == (2, 0.5, 1)
    assert run([], patience=2, progress=Progress(finished=True))[0] == 0


def test_the_last_step_is_looked_at_and_lines_hold_means_since_the_line_before() -> None:
    _, _, notes = run([0.1, 0.2, 0.3], patience=0, plan=replace(PLAN, steps=11, evaluate_every=5))
    assert [(step, kind) for step, kind, _ in notes.lines] == [
        (5, "train"), (5, "validation"), (10, "train"), (10, "validation"), (11, "validation"),
    ]  # fmt: skip
    assert [values["loss"] for _, kind, values in notes.lines if kind == "train"] == [3.0, 8.0]


def test_checkpoints_between_looks_have_the_best_look_before_them() -> None:
    _, _, notes = run([0.4, 0.3], patience=0, plan=RunPlan(steps=8, evaluate_every=4, log_every=9, checkpoint_every=3))
    assert notes.saved == [(3, -1), (4, 4), (6, 4), (8, 4)]


def test_a_loss_that_is_no_number_ends_the_run_with_its_step() -> None:
    def step(state: TrainState, batch: int) -> tuple[TrainState, dict[str, Any]]:
        loss = jnp.float32(jnp.nan if batch == 2 else 1.0)
        return replace(state, step=state.step + 1), {"loss": loss, "targets": jnp.float32(3)}

    notes: Any = Notes(latest_step=2)
    loop = Loop(PLAN, step, lambda state: state, lambda state: {"mrr": 0.0}, "mrr", 0, notes, notes, notes)
    with pytest.raises(
        NonFiniteError, match=r"the loss is nan at step 3 \(batch 2\); the checkpoint of step 2 is kept"
    ):
        loop.run(state_at(0), Progress(), iter(range(100)))
