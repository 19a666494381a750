"""When things happen in a run, in steps."""

import math
from dataclasses import dataclass

from mdrec_jax.config import RunConfig

FEW_STEPS = 200
"""A run of fewer steps learns little."""


@dataclass(frozen=True)
class Plan:
    """When things happen, in steps."""

    steps: int
    """The last one; the learning rate's fall ends there."""
    evaluate_every: int
    log_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, config: RunConfig, steps_per_epoch: int) -> "Plan":
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
