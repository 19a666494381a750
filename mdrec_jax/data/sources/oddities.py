"""What a JSON parser takes without a word in lines of objects: a key that stands twice, halves of characters.

All lines are looked at together, by patterns that find every such line and a few sound ones; those alone are then taken
apart one by one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mdrec_jax.data.sources.blocks import Block

_HALF = re.compile("[\ud800-\udfff]")
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPED_KEY = r'\\[^"]*"\s*:'
_SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
HALF = "half of a character"
WHOLE = r"whole characters: those beyond U+FFFF take two escapes, such as \ud83d\ude00"


class JsonObject(dict[str, Any]):
    """An object as a line has it; of a key that stands twice the last value."""

    repeated: frozenset[str] = frozenset()
    """The keys that stand more than once."""


def json_pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    """For `json.loads(object_pairs_hook=...)`."""
    found = JsonObject(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        found.repeated = frozenset(key for key in found if keys.count(key) > 1)
    return found


def halved(value: Any) -> bool:
    """Whether a text, or one in a list or an object, holds half of a surrogate pair: no text of UTF-8 can."""
    if isinstance(value, str):
        return _HALF.search(value) is not None
    if isinstance(value, Mapping):
        return any(halved(key) or halved(inner) for key, inner in value.items())
    return isinstance(value, list) and any(halved(inner) for inner in value)


def doubtful(block: Block, names: Sequence[str]) -> list[int]:
    """The places of all lines in which a key of `names` stands twice, or a character is halved, and of a few others.

    Args:
        block: lines that are objects, in UTF-8.
    """
    lines = pl.Series([block.data.decode()]).str.split("\n").explode().head(len(block.lines))
    odd = pl.repeat(False, len(lines), eager=True)
    for name in names:
        odd |= lines.str.count_matches(f'"{re.escape(name)}"\\s*:') > 1
    if b"\\" in block.data:
        escaped = lines.str.contains(_ESCAPED_KEY)
        if escaped.any():  # a letter of a key may be written as its number
            for name in names:
                odd |= escaped & (lines.str.count_matches(_any_writing(name)) > 1)
        if b"\\ud" in block.data.lower():
            pairs = lines.str.count_matches(_HIGH + _LOW)
            odd |= (lines.str.count_matches(_HIGH) != pairs) | (lines.str.count_matches(_LOW) != pairs)
    return odd.arg_true().to_list()


def _any_writing(name: str) -> str:
    """The pattern of a key, however its characters are written."""
    ways = []
    for character in name:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        number = "".join(f"\\\\u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4))
        plain = [] if _HALF.match(character) else [re.escape(character)]
        short = [re.escape(_SHORT[character])] if character in _SHORT else []
        ways.append(f"(?:{'|'.join([*plain, *short, number])})")
    return f'"{"".join(ways)}"\\s*:'
