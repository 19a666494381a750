"""The record of looks at the test split, in the folder of the run that was evaluated; of baselines, with the data set.

A figure on test is worth as much as it was not used to choose anything, so every look leaves a line in
`test_looks.jsonl`: when, by which command, under which protocol, of which data and parameters, and what came out.

    {"time": "2025-01-31T12:00:00+00:00", "by": "mdrec evaluate runs/a", "what": "ranking", "protocol": "full",
     "split": "test", "dataset": HASH, "config": HASH, "step": 480, "seeds": [0], "figures": {"all": {"ndcg@10": .1}}}
"""

import fcntl
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.results import Results
from mdrec_jax.terminal import say

LOOKS = "test_looks.jsonl"


HEADLINE = ("hr@10", "recall@20", "ndcg@10", "ndcg@20", "mrr")


def headline(results: Results, model: str) -> dict[str, dict[str, float]]:
    """A model's main figures over all questions, and as the domains' mean."""
    rows = [row for row in results.rows if row.model == model and row.domain in ("all", "macro")]
    return {row.domain: {name: row.metrics[name] for name in HEADLINE if name in row.metrics} for row in rows}


def check_recordable(folder: Path) -> None:
    """Refuses, before any work, a look that could not be recorded.

    Raises:
        InputError: the folder may not be written.
    """
    path = folder / LOOKS
    nearest = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(nearest, os.W_OK):
        raise InputError(
            "a look at test could not be recorded",
            file=path,
            expected="a folder that may be written",
            hint="evaluate a copy of it, or look at --split validation",
        )


def record_look(folder: Path, values: Mapping[str, Any]) -> int:
    """Appends a look and tells its number, which is returned.

    Raises:
        InputError: the record cannot be written.
    """
    path = folder / LOOKS
    look = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **values}
    line = json.dumps(look, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            before = file.read()
            # What a kill or a full disk has cut short stays a line of its own.
            file.write((b"" if not before or before.endswith(b"\n") else b"\n") + line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError("a look at test could not be recorded", file=path, found=error, expected="room") from error
    number = 1 + len(before.splitlines())
    say(f"look number {number} at test, recorded in {path}", file=sys.stderr)
    return number


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """The looks so far; one whose line is damaged counts as `{}`."""
    path = folder / LOOKS
    return [_read(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def look_lines(looks: Sequence[dict[str, Any]]) -> list[str]:
    """The looks for people, the last ones line by line."""
    if not looks:
        return ["test was not looked at"]
    lines = [f"looks at test: {len(looks)}"]
    for number, look in list(enumerate(looks, 1))[-5:]:
        if not look:
            lines.append(f"  {number}: a damaged line")
            continue
        figures = look.get("figures", {})
        figures = figures.get("macro") or figures.get("all") or {} if isinstance(figures, dict) else {}
        shown = " ".join(f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float))
        told = [str(look.get(name, "?")) for name in ("time", "what", "protocol")]
        step = f", step {look['step']}" if "step" in look else ""
        lines.append(f"  {number}: {', '.join(told)}{step}{': ' + shown if shown else ''}")
    return lines
