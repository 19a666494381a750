"""What a command says of an error that no check has foreseen: one line, and a file with the rest."""

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence

from mdrec_jax.errors import EXIT_DOES_NOT_FIT, EXIT_UNEXPECTED
from mdrec_jax.terminal import say

NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "Unable to allocate")
MOST = 300
"""Characters of the error's own message in the line."""


def tell_unexpected(error: BaseException, given: Sequence[str]) -> int:
    """Prints one line that names the error and a file with its traceback. Returns the exit code.

    Args:
        error: what was raised.
        given: the command's words.
    """
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    text = text if len(text) <= MOST else text[: MOST - 3] + "..."
    full = isinstance(error, MemoryError) or any(sign in said for sign in NO_MEMORY)
    told = "does not fit into memory" if full else "an error that was not foreseen"
    trace = "".join(traceback.format_exception(error))
    try:
        path = _write(f"mdrec {shlex.join(given)}\nPython {platform.python_version()}, {platform.platform()}\n{trace}")
    except OSError:
        say(trace, file=sys.stderr)
        path = "above"
    say(f"mdrec: {told}: {text} (traceback: {path})", file=sys.stderr)
    return EXIT_DOES_NOT_FIT if full else EXIT_UNEXPECTED


def _write(text: str) -> str:
    """The name of a new file that holds the text; only its owner may read it."""
    handle, name = tempfile.mkstemp(prefix="mdrec-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return name
