"""The results of mutation runs as a page.

    python benchmarks/mutation/report.py PAGE "TITLE=RESULT.json[,LATER.json...]" [...]

Results under one title are one: of a change that several of them tried, the last one counts.
"""

import collections
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

KNOWN = Path(__file__).with_name("known.json")
WHY = {"unreached": "none of the tests runs it", "stopped": "stopped by the clock before its tests ended: not known"}
MARK = "<!-- results -->"
"""What stands above this line of the page is kept."""


def known(record: dict[str, Any]) -> dict[str, Any]:
    """Why the change survives, and whether because it alters nothing, if it is listed."""
    own = record["file"], record["code"], record["change"]["before"], record["change"]["after"]
    for entry in json.loads(KNOWN.read_text()) if KNOWN.exists() else []:
        if own == (entry["file"], entry["code"], entry["before"], entry["after"]):
            return {"equivalent": entry["equivalent"], "reason": entry["reason"]}
    return {"equivalent": False, "reason": ""}


def write_report(path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Writes a table and what survived, under each title, below what the page says so far."""
    head = path.read_text().partition(MARK)[0] if path.exists() else "# Mutation run\n\n"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy", "polars", "pytest"))
    machine = f"{os.cpu_count()} cores of {platform.machine()}, no accelerator"
    lines = [f"{datetime.now(UTC):%Y-%m-%d}; {machine}; Python {platform.python_version()}, {versions}.", ""]
    for title, parts in results.items():
        last = {
            (mutant["file"], mutant["change"]["node"], mutant["change"]["variant"]): mutant | known(mutant)
            for part in parts
            for mutant in part["mutants"]
        }
        mutants = list(last.values())
        alive = [mutant for mutant in mutants if _alive(mutant)]
        lines += [f"## {title}", "", *_table(mutants), ""]
        lines += _listed("Survived", [mutant for mutant in alive if not mutant["equivalent"]])
        lines += _listed("Alter nothing", [mutant for mutant in alive if mutant["equivalent"]])
    path.write_text(f"{head}{MARK}\n" + "\n".join(lines).rstrip() + "\n")


def _alive(mutant: dict[str, Any]) -> bool:
    return mutant["outcome"] in ("survived", "unreached", "not tried", "stopped")


def _table(mutants: list[dict[str, Any]]) -> list[str]:
    columns = "area", "changes", "killed (time limit)", "survived (run by no test)", "alter nothing", "killed, of all"
    lines = [f"| {' | '.join(columns)} | of those that alter something |", "|---" + "|---:" * len(columns) + "|"]
    areas = sorted({mutant["area"] for mutant in mutants})
    for area in [*areas, "all"]:
        some = [mutant for mutant in mutants if area in (mutant["area"], "all")]
        alike = sum(_alive(mutant) and mutant["equivalent"] for mutant in some)
        dead = sum(not _alive(mutant) for mutant in some)
        count = collections.Counter(m["outcome"] for m in some if not (_alive(m) and m["equivalent"]))
        left = count["survived"] + count["unreached"] + count["stopped"]
        lines.append(
            f"| {area} | {len(some)} | {dead} ({count['timeout']}) | {left} ({count['unreached']}) "
            f"| {alike} | {dead / len(some):.1%} | {dead / max(1, len(some) - alike):.1%} |"
        )
    return lines


def _listed(title: str, mutants: list[dict[str, Any]]) -> list[str]:
    lines = [f"{title}:", ""] if mutants else []
    for m in sorted(mutants, key=lambda mutant: (mutant["file"], mutant["change"]["line"])):
        change, why = m["change"], m["reason"] or WHY.get(m["outcome"], "")
        what = f"`{_short(change['before'])}` -> `{_short(change['after'])}`"
        lines.append(f"- `{m['file']}:{change['line']}` {what}{': ' if why else ''}{why}")
    return [*lines, ""] if mutants else []


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def main() -> None:
    named = [argument.partition("=") for argument in sys.argv[2:]]
    results = {title: [json.loads(Path(name).read_text()) for name in names.split(",")] for title, _, names in named}
    write_report(Path(sys.argv[1]), results)


if __name__ == "__main__":
    main()
