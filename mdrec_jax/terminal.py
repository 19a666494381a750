"""Everything that a person reads on a terminal goes through here: ids, titles, names of domains and paths are other
people's text, which must not move the cursor, colour a line or open a link."""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but line ends and tabs; marks that reorder or hide text; halves of characters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""The text with what a terminal would act on written as `\u001b`; JSON stays the same JSON."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: object = "", *, file: TextIO | None = None) -> None:
    """Prints a line, `plain`, on standard output or on `file`."""
    print(plain(str(text)), file=file or sys.stdout)


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """A rich console on which strings are text, not markup, and every character is `plain`."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *args, **options) -> Iterable[Segment]:
            for segment in super().render(*args, **options):
                if segment.control or not _UNSAFE.search(segment.text):
                    yield segment
                else:
                    yield Segment(plain(segment.text), segment.style)

    return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)
