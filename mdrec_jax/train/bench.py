"""How fast a run's parts are here: its input, its step, its evaluation. Nothing is written."""

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax

from mdrec_jax.data.batching.batches import grain_loader
from mdrec_jax.errors import ConfigError
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.protocol import parse_protocol
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.trained import scorer_of
from mdrec_jax.types import Batch


@dataclass(frozen=True)
class Speed:
    """One part's speed.

    Args:
        part: `input`, `step`, `train` (both together, as a run has them) or `evaluate`.
        unit: what is counted: `targets` (events with a loss; padding never) or `users`.
        per_second: of them, over the wall time of all timed rounds.
        milliseconds: of one round.
        rounds: how many were timed.
        first_seconds: the first round, compilation included; it is not in the others.
        peak_mib: the process's largest resident memory so far.
    """

    part: str
    unit: str
    per_second: float
    milliseconds: float
    rounds: int
    first_seconds: float
    peak_mib: float


def bench(setup: Setup, parts: tuple[str, ...], rounds: int) -> list[Speed]:
    """The speeds of the named parts, in their order.

    Args:
        rounds: batches (`evaluate`: passes over all test queries are a twentieth of it, at least one).

    Raises:
        ConfigError: a part that does not exist.
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError("nothing of this name is measured", found=part, expected=", ".join(PARTS))
    return [PARTS[part](setup, rounds) for part in parts]


def bench_input(setup: Setup, rounds: int) -> Speed:
    """Finished batches out of the loader."""
    batches = grain_loader(setup.batches, 0)
    first, _ = _timed(lambda: next(batches))
    seconds, targets = _timed(lambda: sum(float(next(batches).weight.sum()) for _ in range(rounds)))
    return _speed("input", "targets", targets, seconds, rounds, first)


def bench_step(setup: Setup, rounds: int) -> Speed:
    """The compiled step on batches that are on the devices already."""
    held = list(itertools.islice(setup.batches_from(0), min(rounds, 16)))
    return _bench_steps("step", setup, itertools.cycle(held), rounds)


def bench_train(setup: Setup, rounds: int) -> Speed:
    """Steps with their input, as in a run."""
    return _bench_steps("train", setup, setup.batches_from(0), rounds)


def _bench_steps(part: str, setup: Setup, batches: Iterator[Batch], rounds: int) -> Speed:
    state = setup.initial_state()

    def steps(number: int) -> float:
        nonlocal state
        counted = []
        for batch in itertools.islice(batches, number):
            state, metrics = setup.train_step(state, batch)
            counted.append(metrics["targets"])
        return float(sum(jax.device_get(counted)))

    first, _ = _timed(lambda: steps(1))
    seconds, targets = _timed(lambda: steps(rounds))
    return _speed(part, "targets", targets, seconds, rounds, first)


def bench_evaluate(setup: Setup, rounds: int) -> Speed:
    """The ranks of all test targets among all items of their domains."""
    eval_set = evaluation_set(setup.dataset, parse_protocol("full", source=setup.dataset.manifest.source))
    scorer, passes = scorer_of(setup, setup.initial_state().params), max(1, rounds // 20)
    first, _ = _timed(lambda: rank_queries(scorer, eval_set))
    seconds, users = _timed(lambda: sum(len(rank_queries(scorer, eval_set)) for _ in range(passes)))
    return _speed("evaluate", "users", users, seconds, passes, first)


PARTS: dict[str, Callable[[Setup, int], Speed]] = {
    "input": bench_input,
    "step": bench_step,
    "train": bench_train,
    "evaluate": bench_evaluate,
}


def _timed[Value](work: Callable[[], Value]) -> tuple[float, Value]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def _speed(part: str, unit: str, count: float, seconds: float, rounds: int, first: float) -> Speed:
    return Speed(part, unit, count / seconds, seconds / rounds * 1e3, rounds, first, peak_mib())


def peak_mib() -> float:
    """The largest resident memory that this process ever had, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
