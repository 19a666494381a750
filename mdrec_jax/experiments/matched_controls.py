"""Controls of an ablation: the model with all parts off, given what the parts cost in another form.

Where a part does no more than its cost, one of these does as well. Their other settings are those of the full model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.experiments.costs import Cost
from mdrec_jax.models.config import RecommenderConfig

TOLERANCE = 0.01
"""Costs that differ by less count as equal."""
WIDTH_STEP = 8
"""Feed-forward widths are its multiples."""


@dataclass(frozen=True)
class Control:
    """A control's configuration, and in words what it changes."""

    config: RunConfig
    change: str


def deeper(base: RunConfig, full: Cost, cost: Callable[[RunConfig], Cost]) -> Control | None:
    """`base` with the fewest layers whose step costs at least the full model's FLOPs, a hundredth less allowed.

    None where `base` costs that much already.
    """
    model, wanted = base.model, (1 - TOLERANCE) * full.flops
    assert isinstance(model, RecommenderConfig)

    def with_layers(layers: int) -> RunConfig:
        return replace(base, model={"layers": layers})

    now = cost(base).flops
    if now >= wanted:
        return None
    # Every layer costs about the same: two counts name the depth, and the last ones check it.
    layer = cost(with_layers(model.layers + 1)).flops - now
    layers = model.layers + max(1, math.ceil((wanted - now) / layer))
    while cost(with_layers(layers)).flops < wanted:
        layers += 1
    return Control(with_layers(layers), f"{layers} layers instead of {model.layers}")


def longer(base: RunConfig, full: Cost, cost: Callable[[RunConfig], Cost]) -> Control | None:
    """`base` trained for as many more steps as its step is cheaper: planned FLOPs are equal. None where it is not.

    The schedule is stretched with the run, and so is the distance between two validations: the best
    checkpoint is chosen among as many as before.
    """
    factor = full.flops / cost(base).flops
    if factor <= 1 + TOLERANCE:
        return None
    train = base.train
    more = {
        "epochs": train.epochs * factor,
        "steps": round(train.steps * factor),
        "evaluate_every": train.evaluate_every * factor,
    }
    return Control(replace(base, train=more), f"{factor:.2f} times the steps")


def wider(base: RunConfig, full: Cost, dense: Callable[[RunConfig], int]) -> Control | None:
    """`base` with the feed-forward width whose dense parameters come nearest to the full model's.

    Args:
        dense: the number of dense parameters of a configuration.

    Returns:
        None where `base` has that many already.
    """
    model = base.model
    assert isinstance(model, RecommenderConfig)

    def with_width(width: int) -> RunConfig:
        return replace(base, model={"ffn_multiple": width / model.dim})

    now = dense(base)
    step = dense(with_width(model.ffn_width + WIDTH_STEP)) - now
    steps = round((full.dense - now) / step)
    if steps < 1:
        return None
    width = model.ffn_width + WIDTH_STEP * steps
    return Control(with_width(width), f"feed-forward width {width} instead of {model.ffn_width}")
