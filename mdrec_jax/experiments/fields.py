"""Fields of a run's configuration by their dotted names, as on a command line: `model.encoder.dim`."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from mdrec_jax.codec import CLASS
from mdrec_jax.config import RunConfig
from mdrec_jax.errors import ConfigError


def with_fields(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with other values of the named fields, set all at once.

    Raises:
        ConfigError: a name that is no field or is a group of fields, or a value of another type or out of its range.
    """
    plain = config.to_plain()
    for name, value in values.items():
        *groups, last = name.split(".")
        place = plain
        for depth, part in enumerate(groups):
            _check_name(place, part, groups[:depth])
            place = place[part]
        _check_name(place, last, groups)
        if isinstance(place[last], dict):
            fields = ", ".join(f"{name}.{field}" for field in place[last] if field != CLASS)
            raise ConfigError("a group of fields", column=name, found=value, expected=f"one of {fields}")
        place[last] = value
    return RunConfig.from_plain(plain)


def _check_name(place: Any, part: str, above: list[str]) -> None:
    names = [name for name in place if name != CLASS] if isinstance(place, dict) else []
    if part not in names:
        expected = "one of: " + ", ".join(sorted(names)) if names else f"nothing, {'.'.join(above)} has no fields"
        raise ConfigError("no such field", column=".".join((*above, part)), found=part, expected=expected)


def value_of(config: RunConfig, name: str) -> Any:
    """The value of a field."""
    return reduce(getattr, name.split("."), config)
