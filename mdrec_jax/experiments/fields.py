"""Fields of a run's configuration by their dotted names, as on a command line: `model.dim`."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from mdrec_jax.codec import CLASS, flatten
from mdrec_jax.config import RunConfig
from mdrec_jax.errors import ConfigError
from mdrec_jax.experiments.suggestions import suggest


def with_fields(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with other values of the named fields, set all at once.

    Raises:
        ConfigError: a name that is no field or is a group of fields, or a value of another type or out of its range.
    """
    plain = config.to_plain()
    fields = [name for name in flatten(plain) if name.rpartition(".")[2] != CLASS]
    for name, value in values.items():
        *groups, last = name.split(".")
        place = plain
        for depth, part in enumerate(groups):
            _check_name(place, part, groups[:depth], fields, name)
            place = place[part]
        _check_name(place, last, groups, fields, name)
        if isinstance(place[last], dict):
            inside = ", ".join(f"{name}.{field}" for field in place[last] if field != CLASS)
            raise ConfigError("a group of fields", column=name, found=value, expected=f"one of {inside}")
        place[last] = value
    return RunConfig.from_plain(plain)


def _check_name(place: Any, part: str, above: list[str], fields: list[str], wanted: str) -> None:
    names = [name for name in place if name != CLASS] if isinstance(place, dict) else []
    if part not in names:
        expected = "one of: " + ", ".join(sorted(names)) if names else f"nothing, {'.'.join(above)} has no fields"
        meant = suggest(wanted, fields)
        raise ConfigError(
            "no such field",
            column=".".join((*above, part)),
            found=part,
            expected=expected,
            hint=f"perhaps {' or '.join(meant)}" if meant else None,
        )


def value_of(config: RunConfig, name: str) -> Any:
    """The value of a field."""
    return reduce(getattr, name.split("."), config)
