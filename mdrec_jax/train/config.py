"""How long a run trains, when it is validated, and what it keeps."""

from dataclasses import dataclass
from typing import Literal

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.metrics import parse_metric
from mdrec_jax.evaluate.protocol import parse_protocol


@dataclass(frozen=True)
class TrainConfig:
    """
    Args:
        epochs: passes over the training targets; 0 leaves the end to `steps`.
        steps: optimiser steps; 0 leaves the end to `epochs`. The earlier of the two ends the run.
        evaluate_every: epochs between two validations (a fraction is allowed).
        patience: validations without a better value after which the run stops; 0 never stops early.
        metric: the validation metric that the best checkpoint is chosen by: a name of the results table, of the
            rows with `domain = all`; `macro/` in front takes the mean over domains.
        protocol: how targets are ranked in validation: `full`, `full-with-seen` where people
            repeat themselves, or `uniformN` where a published table was made so, which means one draw here and the mean
            of 30 at test.
        accumulate: micro-batches that a step's rows are split into; it saves memory and changes no result.
    """

    epochs: float = 20.0
    steps: int = 0
    evaluate_every: float = 1.0
    patience: int = 5
    metric: str = "ndcg@10"
    protocol: str = "full"
    accumulate: int = 1

    def __post_init__(self) -> None:
        _at_least("train.epochs", self.epochs, 0)
        _at_least("train.steps", self.steps, 0)
        _at_least("train.patience", self.patience, 0)
        _at_least("train.accumulate", self.accumulate, 1)
        for field, check in (("metric", _check_metric), ("protocol", parse_protocol)):
            try:
                check(getattr(self, field))
            except InputError as error:
                raise ConfigError(
                    error.problem, column=f"train.{field}", found=error.found, expected=error.expected, hint=error.hint
                ) from None
        if not self.evaluate_every > 0:
            raise ConfigError("out of range", column="train.evaluate_every", found=self.evaluate_every, expected="> 0")
        if not self.epochs and not self.steps:
            raise ConfigError(
                "a run without an end", column="train.epochs", found=0, expected="> 0, or train.steps > 0"
            )


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes down besides its result; no part of its identity.

    Args:
        every: steps between two lines of `metrics.jsonl`.
        checkpoint_every: steps between two checkpoints, beside the one at each validation; 0 for those alone.
        tensorboard: whether to write event files.
    """

    every: int = 20
    checkpoint_every: int = 500
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _at_least("logging.every", self.every, 1)
        _at_least("logging.checkpoint_every", self.checkpoint_every, 0)


@dataclass(frozen=True)
class PrecisionConfig:
    """
    Args:
        compute: the type of activations and matrix products; `auto` is float32 on a CPU and bfloat16 on accelerators.
            Parameters, optimiser slots, norms, softmax sums and losses are float32 in every case.
    """

    compute: Literal["auto", "float32", "bfloat16"] = "auto"


def _check_metric(name: str) -> None:
    parse_metric(name.rpartition("/")[2])


def _at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise ConfigError("out of range", column=name, found=value, expected=f">= {least}")
