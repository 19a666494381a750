"""Time, share of the limit and memory of an operation's forms, beside the naive one.

Each operation has `shapes.py`, its real shapes, and `cases.py`, whose `cases(shape)` lists the forms to be compared at
one of them. The forms take turns, and on a CPU so do a large matrix product and a copy, which say what the machine can
do at the time. On a machine that others use too, ratios inside a table mean something, times between tables little. The
limit is that of main memory: what fits into a cache may be beyond it.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from statistics import median
from typing import Any

import jax
import numpy as np
from jaxtyping import DTypeLike
from mdrec_kernels import roofline
from mdrec_kernels.roofline import Chip, Work


@dataclass(frozen=True)
class Case:
    """One form of an operation at one shape.

    Args:
        name: of the form.
        f: what is compiled and timed.
        make: makes its arguments.
        work: what it cannot do without.
        count: how many tokens, queries or ids it handles.
        naive: the name of the case it is compared with.
        carries: f returns its first argument anew, and is called with it again; it is donated.
        apart: is timed alone, so that only its own arguments are in memory.
        dtype: in which products are taken.
        notes: further columns.
    """

    name: str
    f: Callable[..., Any]
    make: Callable[[], tuple]
    work: Work
    count: int
    naive: str | None = None
    carries: bool = False
    apart: bool = False
    dtype: DTypeLike = "float32"
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What was found about a case.

    Args:
        seconds: the fastest round.
        median_seconds: the middle one.
        per_second: tokens, queries or ids, in the fastest round.
        speed_up: the naive case's time over this one's.
        share: the floor in time over this one's time; None where the chip's numbers are not known.
        temp_mib: memory beside inputs and outputs.
    """

    operation: str
    shape: str
    name: str
    seconds: float
    median_seconds: float
    per_second: float
    speed_up: float | None
    share: float | None
    temp_mib: float
    notes: Mapping[str, str]


class _Timed:
    """A compiled case, its arguments and its rounds' times."""

    run: Callable[..., Any] | None

    def __init__(self, case: Case) -> None:
        self.case, self.arguments, self.times = case, case.make(), []
        compiled = jax.jit(case.f, donate_argnums=(0,) if case.carries else ()).lower(*self.arguments).compile()
        memory = compiled.memory_analysis()
        self.run, self.temp_mib = compiled, float("nan") if memory is None else memory.temp_size_in_bytes / 2**20

    def turn(self) -> None:
        assert self.run is not None
        started = time.perf_counter()
        out = jax.block_until_ready(self.run(*self.arguments))
        self.times.append(time.perf_counter() - started)
        if self.case.carries:
            self.arguments = (out, *self.arguments[1:])

    def end(self) -> None:
        """Drop the first round, and what takes memory."""
        self.times, self.arguments, self.run = self.times[1:], (), None


def measure(operation: str, shape: str, cases: Sequence[Case], rounds: int) -> list[Row]:
    """Every case's row, in their order."""
    on_cpu = jax.default_backend() == "cpu"
    probes = [_Timed(_probe(probe)) for probe in roofline.CPU_PROBES] if on_cpu else []
    apart, together = ([case for case in cases if case.apart is alone] for alone in (True, False))
    timed: dict[str, _Timed] = {}
    for group in (*([case] for case in apart), together):
        running = [_Timed(case) for case in group]
        for _ in range(rounds + 1):
            for one in (*running, *probes):
                one.turn()
        for one in running:
            one.end()
            timed[one.case.name] = one
    chip = roofline.cpu_chip(*(min(probe.times) for probe in probes)) if on_cpu else roofline.this_chip()
    return [_row(operation, shape, case, timed, chip) for case in cases]


def _probe(probe: roofline.Probe) -> Case:
    return Case(probe.name, probe.f, probe.make, probe.work, 1)


def _row(operation: str, shape: str, case: Case, timed: Mapping[str, _Timed], chip: Chip | None) -> Row:
    own, naive = timed[case.name], timed.get(case.naive or "")
    seconds = min(own.times)
    known = chip is not None and np.dtype(case.dtype).name in chip.flops_per_second
    return Row(
        operation=operation,
        shape=shape,
        name=case.name,
        seconds=seconds,
        median_seconds=median(own.times),
        per_second=case.count / seconds,
        speed_up=None if naive is None else min(naive.times) / seconds,
        share=chip.share(case.work, seconds, case.dtype) if chip is not None and known else None,
        temp_mib=own.temp_mib,
        notes=dict(case.notes),
    )


def show(shape: Any, rows: Sequence[Row]) -> None:
    """A table of one shape's rows."""
    sizes = ", ".join(f"{name} {value}" for name, value in asdict(shape).items() if name != "name")
    notes = list(rows[0].notes)
    columns = ["form", "ms", "median", "a second", "times naive's speed", "share of limit", "temp MiB", *notes]
    print(f"\n### {rows[0].operation}, {shape.name}: {sizes}\n")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        cells = (
            row.name,
            f"{1000 * row.seconds:.2f}",
            f"{1000 * row.median_seconds:.2f}",
            f"{row.per_second:,.0f}",
            "" if row.speed_up is None else f"{row.speed_up:.2f}",
            "" if row.share is None else f"{row.share:.0%}",
            f"{row.temp_mib:.1f}",
            *(row.notes[note] for note in notes),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def operations() -> list[str]:
    """The operations that have cases."""
    import mdrec_kernels

    found = (module.name for module in iter_modules(mdrec_kernels.__path__) if module.ispkg)
    return sorted(name for name in found if find_spec(f"mdrec_kernels.{name}.cases"))


def run(
    operation: str,
    shapes: Iterable[str] | None,
    rounds: int,
    more: Callable[[Any], list[Case]] | None = None,
    **options: Any,
) -> list[Row]:
    """Measure an operation and print its tables.

    Args:
        operation: one of `operations()`.
        shapes: names; None for all.
        rounds: how often each form is timed.
        more: cases of a shape beside the operation's own.
        options: for the operation's `cases`.
    """
    known, cases = (import_module(f"mdrec_kernels.{operation}.{part}") for part in ("shapes", "cases"))
    wanted = None if shapes is None else set(shapes)
    found: list[Row] = []
    for shape in known.SHAPES:
        if wanted is None or shape.name in wanted:
            forms = cases.cases(shape, **options) + ([] if more is None else more(shape))
            rows = measure(operation, shape.name, forms, rounds)
            show(shape, rows)
            found += rows
    return found


def run_all(names: Iterable[str], *, all_shapes: bool, rounds: int) -> list[Row]:
    """Measure the operations named, at their first shapes or at all."""
    found: list[Row] = []
    for name in names:
        first = import_module(f"mdrec_kernels.{name}.shapes").SHAPES[0].name
        found += run(name, None if all_shapes else [first], rounds)
    return found


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows, and where they were measured."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "rows": [asdict(row) for row in rows],
    }


def main(
    operation: str,
    description: str | None,
    switches: Mapping[str, str] | None = None,
    more: Callable[[Any], list[Case]] | None = None,
) -> None:
    """The command of one operation's benchmark.

    Args:
        operation: its name.
        description: of the command.
        switches: options of the operation's `cases` that are either on or off, and their help.
        more: cases of a shape beside the operation's own.
    """
    names = [shape.name for shape in import_module(f"mdrec_kernels.{operation}.shapes").SHAPES]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=names)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    for switch, text in (switches or {}).items():
        parser.add_argument(f"--{switch}", action="store_true", help=text)
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    options = {switch: getattr(arguments, switch) for switch in switches or {}}
    rows = run(operation, arguments.shape, arguments.rounds, more, **options)
    if arguments.json:
        arguments.json.write_text(json.dumps(record(rows), indent=1) + "\n")
