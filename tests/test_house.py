"""Imports run one way and in no circle; files and folders stay small enough to be held in mind."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {"mdrec_jax": ROOT / "mdrec_jax", "mdrec_kernels": ROOT / "kernels" / "mdrec_kernels"}
FLOORS = (
    ("mdrec_kernels", "mdrec_jax.errors", "mdrec_jax.types"),
    ("mdrec_jax.codec", "mdrec_jax.files", "mdrec_jax.terminal", "mdrec_jax.optim", "mdrec_jax.parallel"),
    ("mdrec_jax.data", "mdrec_jax.federated"),
    ("mdrec_jax.models",),
    ("mdrec_jax.objectives",),
    ("mdrec_jax.evaluate",),
    ("mdrec_jax.serve", "mdrec_jax.train.config"),
    ("mdrec_jax.config",),
    ("mdrec_jax.train",),
    ("mdrec_jax.experiments",),
    ("mdrec_jax.cli",),
    ("mdrec_jax", "mdrec_jax.__main__"),
)
"""From the ground up: a package or module imports from its own and from lower floors, never from one beside it."""
MAX_LINES, MAX_FILES = 300, 16
MANY_FILES = ("mdrec_jax/data/sources",)
"""Folders with a file for each of many formats."""


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports anywhere: inside functions and for type checkers alone, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & MODULES.keys()) | (set() if inside <= MODULES.keys() else {node.module})
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def floor_of(module: str) -> tuple[int, str]:
    """The number of a module's floor, and what it belongs to there: the longest name of FLOORS that it begins with."""
    names = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    home = max((name for name in names if f"{module}.".startswith(f"{name}.")), key=len)
    return names[home], home


def test_imports_run_down() -> None:
    for module, imported in GRAPH.items():
        floor, home = floor_of(module)
        for other in imported:
            below, its_home = floor_of(other)
            assert below < floor or its_home == home, f"{module} imports {other}"


def test_every_module_has_a_floor_of_its_own_package() -> None:
    for module in MODULES:
        at_top = module in ("mdrec_jax", "mdrec_jax.__main__")
        assert (floor_of(module)[1] == "mdrec_jax") <= at_top, f"{module} stands on no floor"


def test_no_circle_of_imports() -> None:
    order = list(TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the circle
    assert order.index("mdrec_jax.data.dataset") < order.index("mdrec_jax.train.fit")


def test_files_and_folders_are_small() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES.values()}
    assert {path: number for path, number in lines.items() if number > MAX_LINES} == {}
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in lines)
    assert {folder: n for folder, n in folders.items() if n > MAX_FILES and folder not in MANY_FILES} == {}
