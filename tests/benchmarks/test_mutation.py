"""The program that changes the code to see whether the tests notice."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "mutation"))

import changes
import report

FOLDER = Path(changes.__file__).parent
SOURCE = '''"""Prose."""
LIMIT: int = 3


def clipped(values: list[int], most: int = LIMIT, *, low: bool = False) -> list[int]:
    """At most `most`."""
    if most < 0:
        raise ValueError(f"most {most + 1}")
    out = [min(value, most) for value in values if value or low]
    out[0] += 1
    return sorted(out, reverse=True)
'''
EXPECTED = {
    "3 -> 4", "3 -> 2", "False -> True", "most < 0 -> most <= 0", "most < 0 -> most > 0", "0 -> 1", "0 -> -1",
    "if most < 0 -> if not most < 0", "raise ValueError(f'most {most + 1}') -> pass", "min -> max",
    "for value in values if value or low -> for value in values", "value or low -> value and low",
    "out[0] += 1 -> out[0] -= 1", "out[0] += 1 -> pass", "1 -> 2", "1 -> 0", "True -> False",
    "return sorted(out, reverse=True) -> return None", "sorted(out, reverse=True) -> sorted(out)",
}  # fmt: skip


def test_changes_are_of_every_kind_and_spare_wording() -> None:
    found = changes.changes_of(SOURCE)
    assert {f"{change.before} -> {change.after}" for change in found} == EXPECTED
    assert {change.line for change in found if change.at_import} == {2, 5}


def test_a_change_alters_the_place_it_names_and_no_other() -> None:
    old = ast.unparse(ast.parse(SOURCE)).splitlines()
    for change in changes.changes_of(SOURCE):
        new = ast.unparse(changes.mutated(SOURCE, change)).splitlines()
        assert len(new) == len(old)
        differ = [place for place in range(len(old)) if old[place] != new[place]]
        assert len(differ) == 1, change
        line = SOURCE.splitlines()[change.line - 1]
        assert ast.unparse(ast.parse(line.strip() + ("\n    pass" if line.endswith(":") else ""))).splitlines()[0] == (
            old[differ[0]].strip()
        )


CODE = """
def larger(first, second):
    if first > second:
        return first
    return second


def unused(value):
    return -value
"""
TESTS = """
from mdrec_small.code import larger

def test_the_larger_one():
    assert larger(1, 2) == 2
    assert larger(4, 3) == 4
"""
DRIVER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import run, workers
workers.warm_up()
mutants = run.sample(Path(), {"small": ("mdrec_small/code.py", 50)}, seed=0)
tests = run.measure(Path("cache"), ["mdrec_small/code.py"], workers=2)
records = list(run.run(mutants, tests, 2, show=False))
Path("result.json").write_text(json.dumps({"seed": 0, "tests": len(tests), "mutants": records}))
"""


def test_killed_surviving_and_unreached_changes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "mdrec_small/__init__.py": "", "mdrec_small/code.py": CODE, "tests/test_code.py": TESTS,
        "pytest.ini": "[pytest]\npythonpath = .\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "-c", DRIVER, str(FOLDER)], cwd=tmp_path, check=True, capture_output=True)
    result = json.loads((tmp_path / "result.json").read_text())
    outcomes = {f"{m['change']['before']} -> {m['change']['after']}": m["outcome"] for m in result["mutants"]}
    assert outcomes == {
        "first > second -> first >= second": "survived",  # equal numbers are not tried, and need not be
        "first > second -> first < second": "killed",
        "if first > second -> if not first > second": "killed",
        "return first -> return None": "killed",
        "return second -> return None": "killed",
        "return -value -> return None": "unreached",
        "-value -> value": "unreached",
    }
    change = next(m["change"] for m in result["mutants"] if m["outcome"] == "survived")
    listed = {
        "file": "mdrec_small/code.py",
        "code": "if first > second:",
        "equivalent": True,
        "reason": "both are equal",
    }
    monkeypatch.setattr(report, "KNOWN", tmp_path / "known.json")
    (tmp_path / "known.json").write_text(json.dumps([listed | {name: change[name] for name in ("before", "after")}]))
    page, unreached = tmp_path / "page.md", [mutant | {"outcome": "unreached"} for mutant in result["mutants"]]
    report.write_report(page, {"one": [result], "other": [{"mutants": unreached}, result]})
    assert page.read_text().count("| small | 7 | 4 (0) | 2 (2) | 1 | 57.1% | 66.7% |") == 2
    assert "`first > second` -> `first >= second`: both are equal" in page.read_text()
    assert "`-value` -> `value`: none of the tests runs it" in page.read_text()
