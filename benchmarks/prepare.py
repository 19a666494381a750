"""How long `mdrec prepare` takes for a large log, and how much memory: python benchmarks/prepare.py

Writes a CSV of generated events (user, item, rating, time; string ids; as many users and items as a tenth and a
fortieth of the events, log-normal activity, Zipf popularity), prepares it in a process of its own with the usual
filters (5-core, leave-one-out) and prints seconds, processor seconds and peak resident memory as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

CHUNK = 1_000_000
CHILD = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from mdrec_jax.data.prepare.prepare import prepare
dataset = prepare("csv", [Path(sys.argv[1])], Path(sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF)
counts = dataset.manifest.counts
print(json.dumps({
    "seconds": round(time.perf_counter() - start, 1),
    "user_seconds": round(used.ru_utime, 1),
    "system_seconds": round(used.ru_stime, 1),
    "peak_resident_gib": round(used.ru_maxrss / (1 << (30 if sys.platform == "darwin" else 20)), 2),
    "users": counts.users, "items": counts.items, "events": counts.events, "left_out": counts.dropped,
    "hash": dataset.hash,
}))
"""


def generate(path: Path, events: int, seed: int) -> None:
    """Writes `events` rows in random order, a chunk at a time."""
    rng = np.random.default_rng(seed)
    users, items = max(1, events // 10), max(1, events // 40)
    user_edges = np.cumsum(rng.lognormal(0.0, 1.0, users))
    item_edges = np.cumsum(1.0 / np.arange(1, items + 1) ** 0.8)
    with path.open("wb") as file:
        for start in range(0, events, CHUNK):
            count = min(CHUNK, events - start)
            user = np.searchsorted(user_edges, rng.random(count) * user_edges[-1])
            item = np.searchsorted(item_edges, rng.random(count) * item_edges[-1])
            table = pl.DataFrame(
                {
                    "user": user * 2_654_435_761 % 36**8,
                    "item": item * 40_503 + 7,
                    "rating": rng.integers(1, 6, count),
                    "time": rng.integers(1_000_000_000, 1_400_000_000, count),
                }
            )
            table.with_columns(
                user="A" + pl.col("user").cast(pl.String).str.zfill(13),
                item="B" + pl.col("item").cast(pl.String).str.zfill(9),
            ).write_csv(file, include_header=start == 0)


def measure(path: Path, out: Path) -> dict[str, object]:
    """Prepares `path` into `out` in a new process and returns what it used."""
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    command = [sys.executable, "-c", CHILD, str(path), str(out)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "events.csv"
        start = time.perf_counter()
        generate(path, args.events, args.seed)
        print(f"{path.stat().st_size:,} bytes generated in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        print(json.dumps({"generated_events": args.events} | measure(path, Path(folder) / "dataset"), indent=1))


if __name__ == "__main__":
    main()
