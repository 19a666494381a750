"""The gate on a real accelerator: every operation's forms agree with the formula there, then their times.

    python benchmarks/kernels/gpu.py [--only OPERATION ...] [--all-shapes] [--rounds 30] [--json FILE]

First each form's outputs are compared with those of the form that it is measured against, wherever both return arrays
of the same shapes: the largest difference over the largest entry, at most 1e-3 for float32 (products may run in TF32)
and .05 for bfloat16. One that is further off ends the command with exit code 1, and no time is shown. Then the tables
of `mdrec bench kernels`, medians of 30 rounds. Device, versions and rounds go into the JSON file.
"""

import argparse
import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from mdrec_kernels import bench
from mdrec_kernels.bench import Case

LIMITS = {"float32": 1e-3, "bfloat16": 0.05}


def difference(case: Case, naive: Case) -> float | None:
    """The largest difference of outputs over the largest entry; None where the outputs are not alike."""
    found, expected = (jax.jit(each.f)(*each.make()) for each in (case, naive))
    one, other = jax.tree.leaves(found), jax.tree.leaves(expected)
    if [leaf.shape for leaf in one] != [leaf.shape for leaf in other]:
        return None
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.size and jnp.issubdtype(a.dtype, jnp.floating)]
    wide = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs]
    return max((float(abs(a - b).max() / jnp.maximum(abs(b).max(), 1e-12)) for a, b in wide), default=None)


def check(operation: str, all_shapes: bool) -> list[dict[str, Any]]:
    """One record for each form that has something to be compared with."""
    module = import_module(f"mdrec_kernels.{operation}.cases")
    shapes = import_module(f"mdrec_kernels.{operation}.shapes").SHAPES
    records = []
    for shape in shapes if all_shapes else shapes[:1]:
        cases = {case.name: case for case in module.cases(shape)}
        for case in cases.values():
            if case.naive is None or case.carries:
                continue
            error = difference(case, cases[case.naive])
            limit = LIMITS[jnp.dtype(case.dtype).name]
            holds = error is None or error <= limit
            shown = "not compared" if error is None else f"{error:.2e} (at most {limit:g})"
            print(f"{'ok ' if holds else 'BAD'} {operation}, {shape.name}, {case.name}: {shown}", flush=True)
            records.append(
                {"operation": operation, "shape": shape.name, "form": case.name, "error": error, "holds": holds}
            )
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="OPERATION", choices=bench.operations())
    parser.add_argument("--all-shapes", action="store_true", help="every shape (default: each operation's first)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.only or bench.operations()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    checks = [record for name in names for record in check(name, args.all_shapes)]
    if not all(record["holds"] for record in checks):
        return 1
    rows = bench.run_all(names, all_shapes=args.all_shapes, rounds=args.rounds)
    if args.json:
        versions = {name: version(name) for name in ("jax", "jaxlib", "mdrec-kernels")}
        args.json.write_text(json.dumps({"versions": versions, "checks": checks, **bench.record(rows)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
