"""The result of a mutation run as a page."""

import collections
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

MARK = "<!-- result -->"
"""What stands above this line of the page is kept."""


def write_report(path: Path, result: dict[str, Any]) -> None:
    """Writes the tables below what the page says so far."""
    head = path.read_text().partition(MARK)[0] if path.exists() else "# Mutation run\n\n"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy", "polars", "pytest"))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, seed {result['seed']}, {result['tests']} tests; {platform.machine()}, CPU, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        *_table(result["mutants"]),
        "",
        *_listed("Survived", [m for m in result["mutants"] if _alive(m) and not m["equivalent"]]),
        *_listed("Equivalent", [m for m in result["mutants"] if _alive(m) and m["equivalent"]]),
    ]
    path.write_text(f"{head}{MARK}\n" + "\n".join(lines).rstrip() + "\n")


def _alive(mutant: dict[str, Any]) -> bool:
    return mutant["outcome"] in ("survived", "unreached", "not tried")


def _table(mutants: list[dict[str, Any]]) -> list[str]:
    columns = "area", "changes", "killed (time limit)", "survived (run by no test)", "equivalent", "killed, of all"
    lines = [f"| {' | '.join(columns)} | of those not equivalent |", "|---" + "|---:" * len(columns) + "|"]
    areas = list(dict.fromkeys(mutant["area"] for mutant in mutants))
    for area in [*areas, "all"]:
        some = [mutant for mutant in mutants if area in (mutant["area"], "all")]
        alike = sum(_alive(mutant) and mutant["equivalent"] for mutant in some)
        dead = sum(not _alive(mutant) for mutant in some)
        count = collections.Counter(m["outcome"] for m in some if not (_alive(m) and m["equivalent"]))
        lines.append(
            f"| {area} | {len(some)} | {dead} ({count['timeout']}) | {count['survived'] + count['unreached']} "
            f"({count['unreached']}) | {alike} | {dead / len(some):.1%} | {dead / max(1, len(some) - alike):.1%} |"
        )
    return lines


def _listed(title: str, mutants: list[dict[str, Any]]) -> list[str]:
    lines = [f"## {title}", ""] if mutants else []
    for m in sorted(mutants, key=lambda mutant: (mutant["file"], mutant["change"]["line"])):
        change = m["change"]
        why = m["reason"] or ("no test runs it" if m["outcome"] == "unreached" else "")
        lines.append(
            f"- `{m['file']}:{change['line']}` `{change['before']}` -> `{change['after']}`{': ' if why else ''}{why}"
        )
    return [*lines, ""] if mutants else []
