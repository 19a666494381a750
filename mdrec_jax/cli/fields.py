"""Fields of a configuration on a command line: `--model.dim 64` or `--model.dim=64`.

A yes-or-no field may stand alone, negated (`--logging.no-tensorboard`), or with True or False behind it. A list takes
all words up to the next option, or words parted by commas behind `=`.
"""

import dataclasses
import re
import shlex
import textwrap
import typing
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from mdrec_jax.codec import CLASS, flatten, to_plain
from mdrec_jax.errors import ConfigError

if TYPE_CHECKING:
    from mdrec_jax.config import RunConfig

TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Given:
    """One field as it was given: the option's text, the field's name, and the words behind it."""

    option: str
    name: str
    words: tuple[str, ...]


def split_off_fields(words: Sequence[str], own: Collection[str]) -> tuple[list[str], list[Given], list[str]]:
    """A command's words without fields of the configuration, the fields, and their words as they were given.

    Args:
        words: behind the command's name.
        own: the command's own options.

    Raises:
        ConfigError: an option that is neither, or one without a value.
    """
    kinds = _kinds()
    rest, fields, raw, at = [], [], [], 0
    while at < len(words):
        option, equals, value = words[at].partition("=")
        start, at = at, at + 1
        if not option.startswith("--") or option == "--" or option in own:
            rest.append(words[start])
            continue
        name, negated = _field(option, kinds, own)
        behind = [value] if equals else []
        if negated and equals:
            raise ConfigError("takes no value", column=option, found=value, expected=f"--{_option(name)} {value}")
        if kinds[name] is list:
            behind = [part for part in re.split(r"[,\s]+", value) if part]
            while not equals and at < len(words) and not words[at].startswith("--"):
                behind += words[at].split(",")
                at += 1
        elif not equals and at < len(words) and not words[at].startswith("--"):
            taken = kinds[name] is not bool or (not negated and words[at].lower() in TRUTH)
            behind, at = ([words[at]], at + 1) if taken else (behind, at)
        if kinds[name] is bool:
            behind = behind or [str(not negated)]
        elif not behind and kinds[name] is not list:
            raise ConfigError("needs a value", column=option, expected=f"{option} VALUE")
        fields.append(Given(option, name, tuple(behind)))
        raw += words[start:at]
    return rest, fields, raw


def _kinds() -> dict[str, type]:
    """Every field of every model's configuration -> the type of its value."""
    from mdrec_jax.config import RunConfig
    from mdrec_jax.models.api import ModelConfig

    return {
        name: type(value)
        for model in get_args(ModelConfig.__value__)
        for name, value in flatten(to_plain(RunConfig(model=model()))).items()
        if name.rpartition(".")[2] != CLASS
    }


def _field(option: str, kinds: dict[str, type], own: Collection[str]) -> tuple[str, bool]:
    """The field that an option names, and whether it is negated. Raises ConfigError for none."""
    name = option[2:].replace("-", "_")
    if name in kinds:
        return name, False
    groups, dot, last = name.rpartition(".")
    plain = f"{groups}{dot}{last.removeprefix('no_')}"
    if last.startswith("no_") and kinds.get(plain) is bool:
        return plain, True
    raise no_such_option(option, kinds, own)


def no_such_option(option: str, names: Collection[str], own: Collection[str] = ()) -> ConfigError:
    """The error for an option that is no field, with what it may have meant."""
    from difflib import get_close_matches

    from mdrec_jax.experiments.config_fields import suggest

    near = get_close_matches(option, own, 1, 0.8)
    meant = near + [f"--{_option(name)}" for name in suggest(option[2:], names)]
    return ConfigError(
        "no such option",
        column=option,
        expected=" or ".join(meant) or None,
        hint="`mdrec train PRESET --help` tells of every field",
    )


def apply(config: "RunConfig", fields: Sequence[Given]) -> "RunConfig":
    """`config` with the fields that were given.

    Raises:
        ConfigError: a field that this configuration does not have, or a value that it cannot have.
    """
    from mdrec_jax.experiments.config_fields import with_fields

    names = [name for name in flatten(to_plain(config)) if name.rpartition(".")[2] != CLASS]
    values = {}
    for given in fields:
        if given.name not in names:
            raise no_such_option(given.option, names)
        *groups, last = given.name.split(".")
        hint = typing.get_type_hints(type(reduce(getattr, groups, config)))[last]
        values[given.name] = _value(hint, given.words, given.option)
    return with_fields(config, values) if values else config


def _value(hint: Any, words: Sequence[str], option: str) -> Any:
    if isinstance(hint, typing.TypeAliasType):
        return _value(hint.__value__, words, option)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return [_value(inner, (word,), option) for word in words]
    (text,) = words
    if get_origin(hint) is Literal:
        known = {str(one): one for one in get_args(hint)}
        if text not in known:
            raise ConfigError("not a value of this field", column=option, found=text, expected=" | ".join(known))
        return known[text]
    if hint is bool:
        if text.lower() not in TRUTH:
            raise ConfigError("not a value of this field", column=option, found=text, expected="True or False")
        return TRUTH[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            expected = "a whole number" if hint is int else "a number"
            raise ConfigError("not a value of this field", column=option, found=text, expected=expected) from None
    return text


def show_fields(config: "RunConfig") -> list[str]:
    """A line for each field, as it may be given."""
    return [_line(name, value) for name, value in _own_fields(config).items()]


def describe_fields(config: "RunConfig", width: int = 100) -> list[str]:
    """The same lines, each with the sentence of its configuration's docstring below."""
    lines = []
    for name, value in _own_fields(config).items():
        *groups, last = name.split(".")
        lines.append("  " + _line(name, value))
        text = _sentences(type(reduce(getattr, groups, config))).get(last, "")
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _own_fields(config: "RunConfig") -> dict[str, Any]:
    return flatten(dataclasses.asdict(config))


def _option(name: str) -> str:
    return name.replace("_", "-")


def _line(name: str, value: Any) -> str:
    words = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
    return " ".join([f"--{_option(name)}", *map(shlex.quote, words)])


def _sentences(cls: type) -> dict[str, str]:
    """Field -> what the class's docstring says of it below `Args:`."""
    _, _, listed = (cls.__doc__ or "").partition("Args:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    indent = len(listed) - len(listed.lstrip())
    for line in listed.splitlines():
        if not line.strip() or len(line) - len(line.lstrip()) < indent:
            break
        head = re.match(r"([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line[indent:])
        if head:
            names = head[1].split(", ")
        for name in names:
            found[name] = f"{found[name]} {line.strip()}" if not head and name in found else (head or [""] * 3)[2]
    return found
