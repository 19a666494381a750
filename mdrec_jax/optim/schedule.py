"""Learning-rate schedules as a factor of the base rate."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from mdrec_jax.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves, as a factor that multiplies every base rate.

    Args:
        kind: `constant`; `linear` and `cosine` fall from 1 after the warm-up to 0 at the end of the run.
        warmup_steps: the factor rises linearly from 0 to 1 over this many steps.
    """

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(
                "negative", column="optim.schedule.warmup_steps", found=self.warmup_steps, expected=">= 0"
            )


def learning_rate_factor(config: ScheduleConfig, step: jax.Array, total_steps: int) -> jax.Array:
    """The factor at `step` (0 is the first step) of a run of `total_steps`, a float32 scalar."""
    now = step.astype(jnp.float32)
    rise = jnp.minimum(1.0, (now + 1.0) / max(config.warmup_steps, 1)) if config.warmup_steps else jnp.float32(1.0)
    if config.kind == "constant":
        return rise
    done = jnp.clip((now - config.warmup_steps) / max(total_steps - config.warmup_steps, 1), 0.0, 1.0)
    left = 1.0 - done if config.kind == "linear" else 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    return rise * left
