"""How many small changes to the code do the tests notice? A seeded sample of them, each tried by the tests that run it.

    python benchmarks/mutation/run.py --out RESULT.json [--seed 0] [--areas optim,...] [--share 1.0] [--workers 1]
        [--tests GLOB,...] [--budget 25] [--again EARLIER.json,...]
    python benchmarks/mutation/report.py benchmarks/MUTATION.md TITLE=RESULT.json [...]

First every test file is run once to see which lines each test runs (kept in --cache, and measured again where a file
changed). Then each change of the sample is made in a fork (`workers.py`), and the tests that run its lines are run on
it until one fails: it is killed. Of many tests the quickest are taken, up to --budget seconds of the processors as they
usually take, and those files come first that killed others before. A change that none of them noticed has survived.

With --again, what an earlier result says was killed is taken over where the file is the same, and only the rest is
tried; --out is written after every change, so a run that was stopped goes on with its own. `report.py` writes results
as a page.

Changes that survive are explained in `known.json`: that they alter nothing (equivalent; those are not tried, because
they would take every test there is), or why no test is worth it.
"""

import argparse
import collections
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from changes import Change, changes_of, mutated
from report import known
from workers import Process, digest, record_lines, run_all, run_tests, warm_up

AREAS: dict[str, tuple[str, int]] = {
    "optim": ("mdrec_jax/optim/*.py", 40),
    "objectives": ("mdrec_jax/objectives/*.py", 90),
    "evaluate": ("mdrec_jax/evaluate/**/*.py", 80),
    "serve": ("mdrec_jax/serve/*.py", 30),
    "data/splits": ("mdrec_jax/data/prepare/splits.py", 60),
    "train/gradients": ("mdrec_jax/train/gradients.py", 15),
    "train/step": ("mdrec_jax/train/step.py", 15),
}
"""Area -> (its files, changes in the sample)."""
TESTS = (
    "tests/data/test_*.py,tests/evaluate/test_*.py,tests/serve/test_*.py,tests/objectives/test_*.py,tests/optim/test_*.py,"
    "tests/test_*.py,tests/train/test_step_*.py,tests/train/test_golden_step.py,tests/train/test_further_objectives.py"
)
"""Without those of kernels and models, which do not reach the areas, and those of whole runs, which take minutes. Fewer
tests can only let more changes survive."""


@dataclass(frozen=True)
class Mutant:
    area: str
    file: str
    change: Change
    code: str
    """The line that is changed."""


def sample(root: Path, areas: dict[str, tuple[str, int]], seed: int, share: float = 1.0) -> list[Mutant]:
    """A random sample of the changes of each area, spread over its files by how many changes each has; a smaller one is
    part of a larger."""
    mutants = []
    for area, (pattern, number) in areas.items():
        every = [
            Mutant(area, path.relative_to(root).as_posix(), change, source.splitlines()[change.line - 1].strip())
            for path in sorted(root.glob(pattern))
            for source in [path.read_text()]
            for change in changes_of(source)
        ]
        random.Random(f"{seed} {area}").shuffle(every)
        mutants += every[: round(number * share)]
    return mutants


def measure(cache: Path, files: list[str], workers: int, which: str = TESTS) -> dict[str, Any]:
    """{test: {passed, seconds, lines}} of the tests that pass as things are; from the cache where neither the file nor
    what it runs has changed."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {p.as_posix() for pattern in which.split(",") for p in Path().glob(pattern)}
    tests = sorted(found)
    stale = [test for test in tests if not _fresh(cache / _flat(test), test)]

    def start(test: str) -> Process:
        place = cache / _flat(test)
        work = lambda: record_lines(test, files, place, cache / f"tmp-{_flat(test)}")  # noqa: E731
        return Process(work, place.with_suffix(".log"), 1200)

    for done, (test, code, _) in enumerate(run_all(stale, start, workers), 1):
        print(f"{done}/{len(stale)} {test}: {code}", flush=True)
        if code not in (0, 1, 5):
            raise SystemExit(f"{test} cannot be run: {(cache / _flat(test)).with_suffix('.log')}")
        place = cache / _flat(test)
        records = json.loads(place.read_text())
        ran = sorted({file for record in records.values() for file in record["lines"]})
        shutil.rmtree(cache / f"tmp-{_flat(test)}", ignore_errors=True)
        place.write_text(json.dumps({"digest": digest(test, *ran), "ran": ran, "tests": records}))
    parts = [json.loads((cache / _flat(test)).read_text())["tests"] for test in tests]
    return {name: record for part in parts for name, record in part.items() if record["passed"]}


def _flat(test: str) -> str:
    return test.replace("/", "-").removesuffix(".py") + ".json"


def _fresh(place: Path, test: str) -> bool:
    if not place.exists():
        return False
    record = json.loads(place.read_text())
    return "digest" in record and record["digest"] == digest(test, *record["ran"])


def tests_for(mutant: Mutant, tests: dict[str, Any], budget: float) -> list[str]:
    """The tests that run the changed lines, quickest first, as far as the budget goes."""
    change, chosen, spent = mutant.change, [], 0.0
    reached = {
        name: record["seconds"]
        for name, record in tests.items()
        if any(change.at_import or change.line <= line <= change.end for line in record["lines"].get(mutant.file, ()))
    }
    for name, seconds in sorted(reached.items(), key=lambda item: item[1]):
        spent += seconds
        if chosen and spent > budget:
            break
        chosen.append(name)
    return chosen


def outcome(code: int | str, log: Path) -> str:
    if code in ("timeout", "stopped"):
        return str(code)
    if code == 0:
        return "survived"
    if code in (5, 70) or (code == 4 and "ERROR: not found" in log.read_text(errors="replace")):
        raise RuntimeError(f"the tests could not be run: {log.read_text(errors='replace')[-2000:]}")
    return "killed"


def run(
    mutants: list[Mutant], tests: dict[str, Any], workers: int, budget: float = 25.0, show: bool = True
) -> Iterator[dict[str, Any]]:
    """Each mutant's record, as it ends: what it is, its outcome, and how many tests it was tried by."""
    chosen = {id(mutant): tests_for(mutant, tests, budget) for mutant in mutants}
    killers: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def record(mutant: Mutant, found: str, by: str = "") -> dict[str, Any]:
        told = {"source": digest(mutant.file), "tests": len(chosen[id(mutant)]), "outcome": found, "by": by}
        if show:
            change = mutant.change
            print(f"{found} {mutant.file}:{change.line} {change.before} -> {change.after}", flush=True)
        return asdict(mutant) | told

    alike = {id(mutant) for mutant in mutants if known(asdict(mutant))["equivalent"]}
    yield from (record(mutant, "not tried") for mutant in mutants if id(mutant) in alike)
    mutants = [mutant for mutant in mutants if id(mutant) not in alike]
    yield from (record(mutant, "unreached") for mutant in mutants if not chosen[id(mutant)])
    with tempfile.TemporaryDirectory() as folder:

        def start(mutant: Mutant) -> Process:
            place, names = Path(folder) / str(id(mutant)), chosen[id(mutant)]
            tree = mutated(Path(mutant.file).read_text(), mutant.change)
            lists = by_file(names, tests, killers[mutant.file])
            if mutant.change.at_import:  # a changed constant may stand in the names of a test's cases
                lists = [list(dict.fromkeys(name.partition("[")[0] for name in some)) for some in lists]
            limit = 30 + 5 * sum(tests[name]["seconds"] for name in names)
            return Process(lambda: run_tests(lists, mutant.file, tree, place), place.with_suffix(".log"), limit)

        reached = [mutant for mutant in mutants if chosen[id(mutant)]]
        for mutant, code, process in run_all(reached, start, workers):
            found = outcome(code, process.log)
            by = killer(process.log) if found == "killed" else ""
            killers[mutant.file][by.partition("::")[0]] += 1
            yield record(mutant, found, by)


def by_file(names: list[str], tests: dict[str, Any], killers: collections.Counter[str]) -> list[list[str]]:
    """The tests of each file, quickest first: the files that killed most before, then those that take least."""
    files: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        files[name.partition("::")[0]].append(name)
    usual = {file: sum(tests[name]["seconds"] for name in some) for file, some in files.items()}
    return [files[file] for file in sorted(files, key=lambda file: (-killers[file], usual[file]))]


def killer(log: Path) -> str:
    """The test that failed, as pytest's summary names it."""
    lines = log.read_text(errors="replace").splitlines()
    named = (line.split()[1] for line in lines if line.startswith(("FAILED tests", "ERROR tests")))
    return next(named, lines[-1][:200] if lines else "")


def carried(mutants: list[Mutant], earlier: list[Path]) -> tuple[list[dict[str, Any]], list[Mutant]]:
    """What earlier results say of those that were killed in the same file, and the mutants that are left to try."""
    key = lambda m: (m["file"], m["source"], m["change"]["node"], m["change"]["variant"])  # noqa: E731
    records = [record for file in earlier for record in json.loads(file.read_text())["mutants"]]
    done = {key(record): record for record in records if record["outcome"] in ("killed", "timeout")}
    keys = [key(asdict(mutant) | {"source": digest(mutant.file)}) for mutant in mutants]
    old = [done[own] for own in keys if own in done]
    return old, [mutant for mutant, own in zip(mutants, keys, strict=True) if own not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", default=",".join(AREAS))
    parser.add_argument("--share", type=float, default=1.0, help="of each area's number of changes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--budget", type=float, default=25.0, help="seconds of tests, as they usually take, for a change"
    )
    parser.add_argument("--tests", default=TESTS)
    parser.add_argument("--again", default="")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mutation")
    options = parser.parse_args()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(options.cache / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    warm_up()
    areas = {name: AREAS[name] for name in options.areas.split(",")}
    every = [path.as_posix() for pattern, _ in AREAS.values() for path in sorted(Path().glob(pattern))]
    tests = measure(options.cache / "lines", every, options.workers, options.tests)
    mutants = sample(Path(), areas, options.seed, options.share)
    old, rest = carried(mutants, [Path(file) for file in options.again.split(",") if file])
    print(f"{len(mutants)} changes, {len(old)} of them killed before", flush=True)
    result: dict[str, Any] = {"seed": options.seed, "share": options.share, "tests": len(tests), "mutants": old}
    for record in run(rest, tests, options.workers, options.budget):
        result["mutants"].append(record)
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
