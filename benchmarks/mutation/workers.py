"""Tests in processes that start warm: what is slow to import is imported once, and each process is a fork.

JAX must not have started when a process forks, so the parent imports it and never calls it, and `mdrec_jax` is
imported by the forks alone: that is also where a changed file takes the place of the one on disk.
"""

import ast
import functools
import gc
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

WARM = "jax flax.nnx optax orbax.checkpoint grain polars rich.console tensorboardX hypothesis beartype scipy"
MEMORY = 12 << 30
"""Bytes that a process may hold: a changed loop may fill the machine."""
PYTEST = ["-n0", "-q", "-p", "no:cacheprovider", "--assert=plain"]


def warm_up() -> None:
    for name in WARM.split():
        importlib.import_module(name)
    import hypothesis

    hypothesis.settings.register_profile("mutation", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    gc.freeze()


class Process:
    """A fork that runs `work`; its exit code is what `work` returns. `limit` is in seconds of the processors, so that a
    busy machine ends nothing; one that sleeps, or gets no turn, is stopped after ten times as long."""

    def __init__(self, work: Callable[[], int], log: Path, limit: float) -> None:
        self.log, self.end = log, time.monotonic() + 10 * limit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forks beside threads; those of JAX have not started
            self.pid = os.fork()
        if not self.pid:
            _child(work, log, int(limit))

    def poll(self) -> int | str | None:
        """The exit code, "timeout" (of the processors' seconds), "stopped" (by the clock) or None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return "timeout" if code == -signal.SIGXCPU else code
        if time.monotonic() < self.end:
            return None
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return "stopped"


def _child(work: Callable[[], int], log: Path, limit: int) -> None:
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = work()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run_all[Job](
    jobs: list[Job], start: Callable[[Job], Process], workers: int
) -> Iterator[tuple[Job, int | str, Process]]:
    """Runs the jobs, `workers` at a time; yields each as it ends."""
    waiting, running = jobs[::-1], []
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            running.append((job, start(job)))
        for entry in list(running):
            result = entry[1].poll()
            if result is not None:
                running.remove(entry)
                yield entry[0], result, entry[1]
        time.sleep(0.02)


class _Replaced(importlib.abc.MetaPathFinder, SourceFileLoader):
    """Finds and loads one module from a tree instead of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        super().__init__(name, str(path))
        self.tree = tree

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        del path, target
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self.tree, self.path, "exec")


def run_tests(tests: list[list[str]], file: str, tree: ast.Module, temporary: Path) -> int:
    """pytest's exit code for the first of these lists of tests that fails, while `file` (relative to the working
    directory) is what the tree says. A list is collected when its turn comes: most changes are noticed by the first."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert name not in sys.modules, f"{name} was imported before the fork"
    sys.meta_path.insert(0, _Replaced(name, Path(file).resolve(), tree))
    for some in tests:
        code = int(pytest.main([*PYTEST, "-x", f"--basetemp={temporary}", *some]))
        if code:
            return code
    return 0


class Lines:
    """A pytest plugin: which lines of some files each test runs, its module's fixtures included, and how many seconds
    of the processors it takes, those of its own processes included (a busy machine makes no test slow).

    JAX and the caches of the package are emptied before each test: what was traced is otherwise not run again.
    """

    def __init__(self, files: list[str]) -> None:
        self.files = {str(Path(file).resolve()): file for file in files}
        self.current: set[tuple[str, int]] = set()
        self.of_fixture: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.tests: dict[str, dict[str, Any]] = {}
        tool = sys.monitoring.COVERAGE_ID
        sys.monitoring.use_tool_id(tool, "mutation")
        sys.monitoring.register_callback(tool, sys.monitoring.events.LINE, self._line)
        sys.monitoring.set_events(tool, sys.monitoring.events.LINE)

    def _line(self, code: CodeType, line: int) -> object:
        # A module's or a class's own lines run when they are imported, whichever test comes first.
        file = self.files.get(code.co_filename)
        if file is not None and code.co_flags & inspect.CO_OPTIMIZED:
            self.current.add((file, line))
        return sys.monitoring.DISABLE

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        outer, self.current = self.current, set()
        sys.monitoring.restart_events()
        try:
            return (yield)
        finally:
            self.of_fixture[fixturedef.argname] |= self.current
            outer |= self.current
            self.current = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        _empty_caches()
        self.current = set()
        sys.monitoring.restart_events()
        start = sum(os.times()[:4])
        record = self.tests[item.nodeid] = {"passed": False}
        result = yield
        for name in getattr(item, "fixturenames", ()):
            self.current |= self.of_fixture.get(name, set())
        lines: dict[str, list[int]] = defaultdict(list)
        for file, line in sorted(self.current):
            lines[file].append(line)
        record |= {"seconds": sum(os.times()[:4]) - start, "lines": lines}
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.tests[report.nodeid]["passed"] = report.passed


def _empty_caches() -> None:
    import jax

    jax.clear_caches()
    for cache in gc.get_objects():
        if isinstance(cache, functools._lru_cache_wrapper) and str(cache.__module__).startswith("mdrec_"):
            cache.cache_clear()


def record_lines(test_file: str, files: list[str], out: Path, temporary: Path) -> int:
    """Writes {test: {passed, seconds, lines: {file: [line]}}} of a test file."""
    lines = Lines(files)
    code = pytest.main([*PYTEST, f"--basetemp={temporary}", test_file], plugins=[lines])
    out.write_text(json.dumps(lines.tests))
    return int(code)


def digest(*files: str) -> str:
    """Of the files' contents, in order of their names; a file that is gone has a digest of its own."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.encode() + b"\0" + (Path(file).read_bytes() if Path(file).exists() else b"gone"))
    return total.hexdigest()[:16]
