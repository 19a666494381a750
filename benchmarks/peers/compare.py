"""Ours beside its peers, one after the other in one run, so that the ratios are of one machine at one time.

    python benchmarks/peers/compare.py --env-dir DIR --data DATASET --out RESULT.json [--loss sampled] [--length 200]

Each program is first tried for a few steps at each batch size, then timed at its best for whole epochs behind a first
one that is not. All train the same events for the same number of epochs; NDCG@10 is by one rule,
`common.rank_targets`, on the test split: each look is recorded in test_looks.jsonl beside the result.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import Task
from environments import PINS, interpreter
from export import export

from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.evaluate.looks_at_test import check_recordable, record_look

HERE = Path(__file__).resolve().parent
RUNNERS = {
    "mdrec": ("", "run_mdrec.py"),
    "rectools": ("rectools", "run_rectools.py"),
    "rectools_fast": ("rectools", "run_rectools.py"),
    "replay": ("replay", "run_replay.py"),
    "replay_bucketed": ("replay", "run_replay.py"),
    "keras_rs": ("keras_rs", "run_keras_rs.py"),
}
"""Name -> (environment; empty = this one, runner)."""
TOLERANCE = 0.002
"""Ours may lie this far below a peer's NDCG@10 after equal targets; below that its speed does not count."""


@dataclass(frozen=True)
class Plan:
    """How the runs of one comparison are made."""

    env_dir: Path
    batches: tuple[int, ...]
    probe_steps: int
    limit_seconds: int


def run_one(task: Task, plan: Plan) -> dict[str, Any]:
    """One runner in a process of its own; a failure is a result too."""
    environment, script = RUNNERS[task.peer]
    python = str(interpreter(plan.env_dir, environment)) if environment else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "task.json", Path(folder) / "result.json"
        given.write_text(json.dumps(asdict(task)), encoding="utf-8")
        path = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} if not environment else {"PYTHONPATH": ""}
        try:
            done = subprocess.run(
                [python, str(HERE / script), str(given), str(found)],
                capture_output=True,
                text=True,
                check=False,
                timeout=plan.limit_seconds or None,
                env={**os.environ, **path},
            )
        except subprocess.TimeoutExpired:
            return {"task": asdict(task), "failed": f"not done after {plan.limit_seconds} s"}
        if done.returncode or not found.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"task": asdict(task), "failed": lines[-1]}
        return json.loads(found.read_text(encoding="utf-8"))


def best_batch(task: Task, plan: Plan) -> tuple[int, dict[str, Any]]:
    """The batch size with the most targets a second in a few steps, and what each size gave."""
    rates: dict[str, Any] = {}
    if len(plan.batches) == 1:
        return plan.batches[0], rates
    for batch in plan.batches:
        trial = replace(task, batch=batch, steps=plan.probe_steps, epochs=1, evaluate=False, quality=False)
        result = run_one(trial, plan)
        rates[str(batch)] = result["training"]["targets_per_second"] if "training" in result else result["failed"]
        print(f"  {task.peer}, batch {batch}: {rates[str(batch)]}", file=sys.stderr, flush=True)
    timed = {batch: rate for batch, rate in rates.items() if isinstance(rate, float)}
    return int(max(timed, key=lambda batch: timed[batch])) if timed else plan.batches[0], rates


def compare(task: Task, peers: list[str], plan: Plan) -> list[dict[str, Any]]:
    """Every peer's result, in the order given."""
    results = []
    for peer in peers:
        print(peer, file=sys.stderr, flush=True)
        batch, rates = best_batch(replace(task, peer=peer), plan)
        result = run_one(replace(task, peer=peer, batch=batch), plan)
        results.append({"peer": peer, "batch": batch, "batch_rates": rates, **result})
        print("  " + row(results[-1], results[0]), file=sys.stderr, flush=True)
    return results


HEADER = (
    "| program | batch | parameters | targets/s | ratio | without input | ratio | users/s | ratio | peak MiB | NDCG@10 "
    "| HR@10 | counts |\n|" + "---|" * 13
)


def row(result: dict[str, Any], ours: dict[str, Any]) -> str:
    """A line of the table; ratios are ours over this one, `counts` is whether ours is as good after equal targets."""
    if "failed" in result:
        return f"| {result['peer']} | failed: {result['failed']} |" + " |" * 11
    rates, own = speeds(result), speeds(ours) if "failed" not in ours else {}
    cells = [result["peer"], str(result["batch"]), f"{result['parameters']:,}"]
    for name in ("targets", "targets_without_input", "users"):
        value, mine = rates[name], own.get(name)
        ratio = mine / value if value and mine else None
        cells += [f"{value:,.0f}" if value else "-", f"{ratio:.1f}x" if ratio else "-"]
    theirs, good = result.get("quality"), ours.get("quality")
    cells += [f"{result['peak_bytes'] / 2**20:,.0f}"]
    cells += [f"{theirs['ndcg@10']:.4f}", f"{theirs['hr@10']:.4f}"] if theirs else ["-", "-"]
    cells += [("yes" if good["ndcg@10"] >= theirs["ndcg@10"] - TOLERANCE else "NO") if theirs and good else "-"]
    return "| " + " | ".join(cells) + " |"


def speeds(result: dict[str, Any]) -> dict[str, float | None]:
    """Targets a second of whole epochs, the same without the time that the input alone takes, users a second."""
    training = result["training"]
    seconds = training["targets_per_epoch"] / training["targets_per_second"]
    evaluation = result.get("evaluation")
    return {
        "targets": training["targets_per_second"],
        "targets_without_input": training["targets_per_epoch"] / max(seconds - result["input_seconds"], 1e-9),
        "users": evaluation["users_per_second"] if evaluation else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-dir", type=Path, required=True, metavar="DIR", help="environments of environments.py")
    parser.add_argument("--data", type=Path, required=True, metavar="DATASET", help="a prepared dataset of one domain")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="results as JSON")
    parser.add_argument("--peers", default=",".join(RUNNERS), help="ours (mdrec) first: ratios are its")
    parser.add_argument("--loss", choices=("softmax", "sampled"), default="softmax")
    parser.add_argument("--batches", default="64,128,256")
    parser.add_argument("--probe-steps", type=int, default=8)
    parser.add_argument("--limit-seconds", type=int, default=0, help="of one runner; 0 = none")
    parser.add_argument("--no-evaluation", action="store_true")
    parser.add_argument("--max-queries", type=int, default=0, help="evaluate at most so many test users; 0 = all")
    for name in ("negatives", "length", "dim", "blocks", "heads", "epochs", "steps", "threads", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Task, name))
    for name in ("dropout", "learning_rate"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(Task, name))
    args = parser.parse_args()
    peers = args.peers.split(",")
    if unknown := set(peers) - set(RUNNERS):
        parser.error(f"unknown peer {min(unknown)}: one of {' '.join(RUNNERS)}")
    for name in {RUNNERS[peer][0] for peer in peers} - {""}:
        if not interpreter(args.env_dir, name).exists():
            parser.error(f"no environment {name} in --env-dir: run environments.py (it makes {' '.join(PINS)})")
    dataset = open_dataset(args.data)
    if not args.no_evaluation:
        check_recordable(args.out.resolve().parent)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            name: getattr(args, name)
            for name in ("loss", "negatives", "length", "dim", "blocks", "heads", "dropout", "learning_rate",
                         "epochs", "steps", "threads", "seed")
        }  # fmt: skip
        whole = not args.no_evaluation
        exported = export(dataset, Path(folder), max_queries=args.max_queries)
        task = Task(str(exported), str(args.data.resolve()), peer="", evaluate=whole, quality=whole, **options)
        batches = tuple(int(batch) for batch in args.batches.split(","))
        plan = Plan(args.env_dir, batches, args.probe_steps, args.limit_seconds)
        results = compare(task, peers, plan)
    note = {"dataset": dataset.hash, "source": dataset.manifest.source, "cores": os.cpu_count(), "results": results}
    args.out.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    if not args.no_evaluation:
        look = {"by": "benchmarks/peers/compare.py", "what": "peers", "protocol": "full", "split": "test"}
        figures = {result["peer"]: result.get("quality") for result in results}
        record_look(args.out.resolve().parent, {**look, "dataset": dataset.hash, "models": figures})
    print(HEADER)
    for result in results:
        print(row(result, results[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
