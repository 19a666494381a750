"""Range checks of a model's configuration, each naming the field, what was found and what was expected."""

import dataclasses
import math
import typing
from typing import Any, Literal

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.types import DatasetSpec


def check_fields(
    config: Any,
    *,
    counts: tuple[str, ...] = (),
    rates: tuple[str, ...] = (),
    positives: tuple[str, ...] = (),
    none_below_zero: tuple[str, ...] = (),
) -> None:
    """Checks fields of a frozen dataclass; those whose type is a `Literal` are always checked.

    Args:
        counts: whole numbers, at least 1.
        rates: dropout rates, 0 <= rate < 1.
        positives: finite numbers above zero.
        none_below_zero: finite numbers, zero among them.

    Raises:
        ConfigError: for the first field out of its range.
    """
    for name in counts:
        value = getattr(config, name)
        check(name, value, isinstance(value, int) and not isinstance(value, bool) and value >= 1, "a whole number >= 1")
    for name in rates:
        check(name, getattr(config, name), 0.0 <= getattr(config, name) < 1.0, "a rate, 0 <= rate < 1")
    for name in positives:
        value = getattr(config, name)
        check(name, value, math.isfinite(value) and value > 0.0, "a finite number > 0")
    for name in none_below_zero:
        value = getattr(config, name)
        check(name, value, math.isfinite(value) and value >= 0.0, "a finite number >= 0")
    for field in dataclasses.fields(config):
        if typing.get_origin(field.type) is Literal:
            choices = typing.get_args(field.type)
            value = getattr(config, field.name)
            check(field.name, value, value in choices, " | ".join(map(str, choices)))


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Raises ConfigError, naming the model's field, unless the check holds."""
    if not holds:
        raise ConfigError("out of range", column=f"model.{name}", found=value, expected=expected)


def check_heads(dim: int, heads: int) -> None:
    """Raises ConfigError unless `heads` divides `dim`."""
    check("heads", heads, dim % heads == 0, f"a divisor of dim = {dim}")


def check_ordered(spec: DatasetSpec) -> None:
    """Raises InputError for data whose source knew no order of events: there is no sequence to learn from."""
    if not spec.ordered:
        raise InputError(
            "a sequence model needs the order of events, and this data set has none",
            expected="a data set with times, or one whose files are in order",
            hint="the baseline 'popularity' needs no order: mdrec baselines DIR",
        )
