"""Errors that a person can act on, and the exit code that each one ends a command with."""

from pathlib import Path

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_DOES_NOT_FIT = 3
EXIT_NOT_FINITE = 5
EXIT_INTERRUPTED = 130


class MdrecError(Exception):
    """Base of every error that `mdrec` reports without a traceback."""

    exit_code: int = EXIT_BAD_INPUT


class InputError(MdrecError):
    """Input that cannot be used, refused before work starts.

    Args:
        problem: one sentence, lower case, no full stop.
        file: the file (or folder) it is in.
        row: 1-based line or record number in that file (the header is line 1).
        column: the column's or field's name.
        found: what stands there (shortened to 80 characters).
        expected: what should stand there.
        hint: what the user may do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        found: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.column = problem, file, row, column
        self.found, self.expected, self.hint = found, expected, hint
        super().__init__(self._message())

    def _message(self) -> str:
        place = ", ".join(
            part
            for part in (
                str(self.file) if self.file is not None else "",
                f"row {self.row}" if self.row is not None else "",
                f"column '{self.column}'" if self.column is not None else "",
            )
            if part
        )
        lines = [f"{place}: {self.problem}" if place else self.problem]
        if self.found is not None:
            text = str(self.found)
            lines.append(f"  found:    {text if len(text) <= 80 else text[:77] + '...'}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.hint is not None:
            lines.append(f"  hint:     {self.hint}")
        return "\n".join(lines)


class ConfigError(InputError):
    """A configuration field that does not exist or is out of its range."""


class DoesNotFitError(MdrecError):
    """The job does not fit into the memory of the device that it was asked to run on."""

    exit_code = EXIT_DOES_NOT_FIT


class NonFiniteError(MdrecError):
    """The loss became infinite or not a number; the last good checkpoint is kept."""

    exit_code = EXIT_NOT_FINITE
