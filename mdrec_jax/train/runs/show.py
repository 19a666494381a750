"""What a run folder holds: how far it came, how it went, how fast it was."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdrec_jax.config import RunConfig, read_config
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.looks_at_test import look_lines, read_looks
from mdrec_jax.evaluate.results import Results, read_results
from mdrec_jax.files import read_object
from mdrec_jax.models.api import kind_of
from mdrec_jax.train.runs.journal import read_lines
from mdrec_jax.train.runs.run_folder import STEPS, RunFolder, differences, read_data


@dataclass(frozen=True)
class RunSummary:
    """
    Args:
        data: path and hash of the data set.
        versions: of the libraries it ran with.
        preset: that it was made from; None where it was made from `RunConfig`'s defaults.
        changed: fields of the configuration that are not the preset's: name -> value.
        checkpoints: steps, ascending.
        step: the last step that the journal knows.
        planned: steps of the schedule; 0 where the folder does not say it.
        loss: of the last window of steps; None before the first.
        told: what the model tells of itself, means over the last window's events.
        validation: metric -> value at each validation: (step, values).
        targets_per_second: at the end of the journal; None before the first window.
        results: the evaluations in the folder.
        looks: at the test split (`looks_at_test.py`).
    """

    config: RunConfig
    data: dict[str, str]
    versions: dict[str, str]
    preset: str | None
    changed: dict[str, Any]
    checkpoints: tuple[int, ...]
    step: int
    planned: int
    loss: float | None
    told: dict[str, float]
    validation: tuple[tuple[int, dict[str, float]], ...]
    targets_per_second: float | None
    results: tuple[Results, ...]
    looks: tuple[dict[str, Any], ...]

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, value) of the best validation by the run's metric; of equal ones the first."""
        metric = self.config.train.metric
        found = [(step, values[metric]) for step, values in self.validation if metric in values]
        return max(found, key=lambda one: one[1]) if found else None


def summarise_run(path: Path) -> RunSummary:
    """Reads a run folder; it may belong to a run that is still going.

    Raises:
        InputError: no run there.
    """
    folder = RunFolder(path)
    if not folder.holds_a_run():
        raise InputError("no run here", file=path, expected=f"a folder with {folder.config.name}")
    config = read_config(folder.config)
    record = read_object(folder.config, "config", "dataset", "versions")
    data, digest = read_data(folder)
    lines = _lines(folder.metrics)
    validation = tuple((line["step"], _values(line)) for line in lines if line["kind"] == "validation")
    last = next((_values(line) for line in reversed(lines) if line["kind"] == "train"), {})
    rates = [line.get("targets_per_second") for line in _lines(folder.timing) if line["kind"] == "train"]
    steps = sorted(int(p.name) for p in folder.checkpoints.glob("*") if p.name.isdigit())
    preset, changed = _origin(record)
    return RunSummary(
        config=config,
        data={"path": str(data), "hash": digest},
        versions=_versions(folder, record["versions"]),
        preset=preset,
        changed=changed,
        checkpoints=tuple(steps),
        step=max((line["step"] for line in lines), default=0),
        planned=int(record[STEPS]) if isinstance(record.get(STEPS), int) else 0,
        loss=last.get("loss"),
        told={name: last[name] for name in last if name not in ("loss", "targets", "gradient_norm")},
        validation=validation,
        targets_per_second=rates[-1] if rates else None,
        results=tuple(read_results(file) for file in sorted(folder.evaluation.glob("*.json"))),
        looks=tuple(read_looks(folder.path)),
    )


def _versions(folder: RunFolder, versions: Any) -> dict[str, str]:
    if not isinstance(versions, dict):
        expected = "library: version"
        raise InputError("a damaged file", file=folder.config, column="versions", found=versions, expected=expected)
    return {name: str(version) for name, version in versions.items()}


def _origin(record: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The preset that a run was made from, and its fields that are not the preset's."""
    preset = record.get("preset")
    if not (isinstance(preset, dict) and isinstance(preset.get("changed"), dict)):
        changed = differences(RunConfig().to_plain(), record["config"])
        return None, {name: new for name, (_, new) in changed.items()}
    name = str(preset.get("name")) + (" --smoke" if preset.get("smoke") else "")
    changed = preset["changed"].items()
    return name, {field: values[-1] if isinstance(values, list) and values else values for field, values in changed}


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_lines(path) if path.exists() else []


def _values(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "kind")}


def run_lines(path: Path, summary: RunSummary) -> list[str]:
    """The summary for people, line by line."""
    config, metric, best = summary.config, summary.config.train.metric, summary.best
    lines = [
        f"{path}: {kind_of(config.model)}, seed {config.seed}, config {config.hash()}",
        f"data {summary.data['path']}, hash {summary.data['hash'][:12]}",
        "versions " + ", ".join(f"{name} {number}" for name, number in summary.versions.items()),
        f"step {summary.step:,}{f' of {summary.planned:,}' if summary.planned else ''}, checkpoints "
        + (", ".join(f"{step:,}" for step in summary.checkpoints) if summary.checkpoints else "none"),
    ]
    if summary.loss is not None and summary.targets_per_second is not None:
        lines.append(f"last loss {summary.loss:.4f}, {summary.targets_per_second:,.0f} targets/s")
    if best is None and summary.validation:
        there = ", ".join(summary.validation[-1][1])
        lines.append(f"validation {metric}: in none of {len(summary.validation)} validations; there are {there}")
    if summary.told:
        lines.append("last means: " + ", ".join(f"{name} {value:.3f}" for name, value in summary.told.items()))
    if best is not None:
        course = " ".join(f"{values[metric]:.4f}" for _, values in summary.validation if metric in values)
        lines += [f"validation {metric}: best {best[1]:.4f} at step {best[0]:,}", f"  {course}"]
    changed = ", ".join(f"{name}={value}" for name, value in summary.changed.items())
    if summary.preset is not None:
        lines.append(
            f"preset {summary.preset}; " + (f"set otherwise: {changed}" if changed else "nothing set otherwise")
        )
    elif changed:
        lines.append(f"not by default: {changed}")
    return [*lines, *look_lines(summary.looks)]
