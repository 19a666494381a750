"""Frozen dataclasses to plain JSON values and back, with an error that names the field."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from mdrec_jax.errors import ConfigError

CLASS = "class"
"""The key of a dataclass's name; being a keyword of Python, it can be no field's name."""


def to_plain(value: Any) -> Any:
    """A tree of dicts, lists and scalars. A dataclass carries its class name as `class`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {CLASS: type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain[T](cls: type[T], value: Any, place: str = "") -> T:
    """The inverse of `to_plain`.

    Raises:
        ConfigError: for a field that does not exist, one that is missing and has no default, or a value of another
            type; `place` is the dotted name of the part that is being read.
    """
    if not isinstance(value, dict):
        raise ConfigError("not a group of fields", column=place or cls.__name__, found=value, expected="an object")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    given = {name: item for name, item in value.items() if name != CLASS}
    for name in given:
        if name not in fields:
            raise ConfigError(
                "no such field", column=_join(place, name), found=name, expected="one of: " + ", ".join(sorted(fields))
            )
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in given and not optional:
            raise ConfigError("a field is missing", column=_join(place, name), expected="a value")
    return cls(**{name: _read(hints[name], item, _join(place, name)) for name, item in given.items()})


def _read(hint: Any, value: Any, place: str) -> Any:
    while isinstance(hint, typing.TypeAliasType):
        hint = hint.__value__
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, place)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, place)
    if origin is Literal:
        return _expect(value in arguments, value, place, " | ".join(map(str, arguments)))
    if origin is tuple:
        _expect(isinstance(value, list | tuple), value, place, "a list")
        inner = arguments[0] if arguments else Any
        return tuple(_read(inner, item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), value, place, "an object")
        return {name: _read(arguments[1], item, _join(place, name)) for name, item in value.items()}
    return _read_scalar(hint, value, place)


def _read_scalar(hint: Any, value: Any, place: str) -> Any:
    if hint is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), value, place, "a number")
        return float(value)
    if hint is int:
        return _expect(isinstance(value, int) and not isinstance(value, bool), value, place, "a whole number")
    if hint in (bool, str):
        return _expect(isinstance(value, hint), value, place, hint.__name__)
    return value


def _read_union(options: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in options:
        return None
    named = {typing.cast(type, option).__name__: option for option in options if dataclasses.is_dataclass(option)}
    if isinstance(value, dict):
        _expect(value.get(CLASS) in named, value.get(CLASS), _join(place, CLASS), " | ".join(named))
        return from_plain(typing.cast(type, named[value[CLASS]]), value, place)
    others = [option for option in options if option is not type(None) and not dataclasses.is_dataclass(option)]
    _expect(len(others) == 1, value, place, " | ".join(named))
    return _read(others[0], value, place)


def _expect(holds: bool, value: Any, place: str, expected: str) -> Any:
    if not holds:
        raise ConfigError("not a value of this field", column=place, found=value, expected=expected)
    return value


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def flatten(plain: Any, place: str = "") -> dict[str, Any]:
    """Dotted field names to leaf values; lists count as leaves."""
    if not isinstance(plain, dict):
        return {place: plain}
    return {k: v for name, item in plain.items() for k, v in flatten(item, _join(place, name)).items()}


def check_finite(config: Any, place: str = "") -> None:
    """Refuses a dataclass of which a number, at any depth, is NaN or infinite.

    Raises:
        ConfigError: naming the field.
    """
    for name, value in flatten(to_plain(config), place).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError("out of range", column=name, found=value, expected="a finite number")


def digest(plain: Any, leave_out: Iterable[str] = ()) -> str:
    """SHA-256 (16 hex digits) of the fields, without those whose dotted name starts with one of `leave_out`.

    Equal numbers count as equal: a field that a preset sets to 4 is read back as 4.0.
    """
    out = tuple(leave_out)
    kept = {k: v for k, v in flatten(plain).items() if not any(k == o or k.startswith(o + ".") for o in out)}
    kept = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in kept.items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
