"""Results files: the figures of one or several models under one protocol on one data set, with what they rest on.

    {"protocol": {...}, "dataset": HASH, "config": HASH or null, "split": "test", "seeds": [0], "selection": "ndcg@10",
     "recipe": HASH or null,
     "length": {"epochs": 24.0, "steps": 0, "patience": 0}, "source": "s3rec", "domains": ["Beauty"], "counts": {...},
     "rows":   [{"model": "transitions", "domain": "all", "users": 22363, "queries": 22363,
                 "metrics": {"hr@10": 0.0821, ...}, "interval": {"ndcg@10": [lo, hi], ...},
                 "draw_sd": {"ndcg@10": 0.0009, ...} (of several draws of candidates)}, ...],
     "slices": [the same with "slice": "history 1-4" | "cold target" | ...],
     "ranks":  {"transitions": ["test.transitions.0-5f1c27ab.npz"]}}

The files of ranks are named by their content: a kill between them and the results file leaves the old results with the
ranks that they were made from.

Domain `all` is the mean over all queries, `macro` the unweighted mean over the domains.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol, protocol_from_json
from mdrec_jax.evaluate.ranks import Ranks, save_ranks
from mdrec_jax.files import check_writable, replacing, write_json

UNTUNED = ("popularity", "transitions", "transitions-local")
"""The rows that need no settings. Every table has them."""
TUNED = ("date-popularity", "transitions-tuned", "itemknn", "ease", "next-ridge", "linear-blend")
"""The rows of `mdrec baselines`, whose settings validation chooses. Tables have them once they were worked out."""
BASELINES = UNTUNED + TUNED
"""The rows that no network made."""


@dataclass(frozen=True)
class Row:
    """The figures of one model about one domain, or one slice of it."""

    model: str
    domain: str
    users: int
    queries: int
    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]]
    slice: str | None = None
    draw_sd: dict[str, float] = field(default_factory=dict)
    """Standard deviation of each metric over the draws of candidates; empty where there is one draw."""

    def to_json(self) -> dict[str, Any]:
        named = {"slice": self.slice} if self.slice is not None else {}
        interval = {name: list(ends) for name, ends in self.interval.items()}
        draws = {"draw_sd": self.draw_sd} if self.draw_sd else {}
        return {
            "model": self.model, "domain": self.domain, **named, "users": self.users, "queries": self.queries,
            "metrics": self.metrics, "interval": interval, **draws,
        }  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Everything that a results file says.

    Args:
        protocol: how the ranks were made.
        dataset: hash of the prepared data set.
        config: hash of the run's config; None for baselines.
        rows: by model, then domain.
        slices: rows about parts of the queries.
        seeds: of the training runs whose mean this is; empty for baselines.
        selection: the validation metric that chose the checkpoint; None for baselines.
        recipe: hash of the runs' config, its seed left out; None for baselines.
        length: the fields of `train` that say where the runs end, which `config` leaves out; of a run that did not come
            to its end also the step that it stopped at, and the planned ones; empty for baselines.
        source: the data set's source.
        domains: the data set's domains, by number.
        counts: what was left out or unknown, by reason.
        ranks: model -> files of ranks beside the results file, one a seed.
        settings: baseline -> domain -> what validation chose.
    """

    protocol: Protocol
    dataset: str
    config: str | None
    rows: tuple[Row, ...]
    slices: tuple[Row, ...] = ()
    seeds: tuple[int, ...] = ()
    selection: str | None = None
    recipe: str | None = None
    length: dict[str, float] = field(default_factory=dict)
    source: str = ""
    domains: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    settings: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def split(self) -> str:
        return self.protocol.split

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.to_json(),
            "dataset": self.dataset,
            "config": self.config,
            "split": self.split,
            "seeds": list(self.seeds),
            "selection": self.selection,
            "recipe": self.recipe,
            "length": self.length,
            "source": self.source,
            "domains": list(self.domains),
            "counts": self.counts,
            "rows": [row.to_json() for row in self.rows],
            "slices": [row.to_json() for row in self.slices],
            "ranks": {model: list(files) for model, files in self.ranks.items()},
            **({"settings": self.settings} if self.settings else {}),
        }


def write_results(path: Path, results: Results, ranks: Mapping[str, Sequence[Ranks]] | None = None) -> Results:
    """Writes a results file, and the ranks of each model beside it (one file a seed). Returns what was written.

    Raises:
        InputError: the disk is full, or the place is taken.
    """
    check_writable(path)
    before = _ranks_files(path)
    names: dict[str, tuple[str, ...]] = dict(results.ranks)
    for model, parts in (ranks or {}).items():
        names[model] = tuple(_write_ranks(path, f"{model}.{index}", part) for index, part in enumerate(parts))
    results = replace(results, ranks=names)
    write_json(path, results.to_json())
    for name in before - {name for files in names.values() for name in files}:
        (path.parent / name).unlink(missing_ok=True)
    return results


def _write_ranks(path: Path, name: str, ranks: Ranks) -> str:
    """The name of the file, which holds the content's digest. `name` may hold spaces: the file's does not."""
    content = io.BytesIO()
    save_ranks(ranks, content)
    name = f"{path.stem}.{re.sub(r'[^\w.+-]+', '-', name)}-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.npz"
    with replacing(path.parent / name) as part:
        part.write_bytes(content.getvalue())
    return name


def _ranks_files(path: Path) -> set[str]:
    """The files of ranks that the results file there now was written with; none where it is no such file."""
    try:
        files = {name for names in read_results(path).ranks.values() for name in names}
    except InputError:
        return set()
    return {name for name in files if name == Path(name).name and name.startswith(f"{path.stem}.")}


def results_name(split: str, protocol: str) -> str:
    """The name of a run's results under a protocol, by its name, in the run's folder `evaluation`."""
    name = parse_protocol(protocol, split="test" if split == "test" else "validation").name
    return f"{split}-{name.replace(':', '-').replace('/', '-')}.json"


def results_file(path: Path, split: str, protocol: str) -> Path:
    """The results file that a path names: itself, or that of a run's folder (or of the folder of several seeds' runs).

    Raises:
        InputError: a folder without these results.
    """
    if not path.is_dir():
        return path
    file = path / "evaluation" / results_name(split, protocol)
    if file.is_file():
        return file
    there = ", ".join(sorted(one.stem for one in file.parent.glob("*.json"))) if file.parent.is_dir() else ""
    seeds = "" if (path / "config.json").exists() else "/seed-*"
    raise InputError(
        "the folder holds no such results",
        file=path,
        found=there or "no results at all",
        expected=f"evaluation/{file.name}",
        hint=f"mdrec evaluate {path}{seeds} --split {split} --protocol {protocol}; or name what there is by the two",
    )


def read_results(path: Path) -> Results:
    """Reads a results file.

    Raises:
        InputError: no such file, or one that holds something else.
    """
    if not path.is_file():
        expected = "a file that `mdrec evaluate` or `mdrec baselines` wrote, in a run's folder evaluation"
        raise InputError("is a folder" if path.is_dir() else "no such results file", file=path, expected=expected)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a JSON file", file=path, found=error) from None
    try:
        return Results(
            protocol=protocol_from_json(values["protocol"], file=str(path)),
            dataset=values["dataset"],
            config=values["config"],
            rows=tuple(_read_row(row) for row in values["rows"]),
            slices=tuple(_read_row(row) for row in values.get("slices", [])),
            seeds=tuple(values.get("seeds", [])),
            selection=values.get("selection"),
            recipe=values.get("recipe"),
            length=values.get("length", {}),
            source=values.get("source", ""),
            domains=tuple(values.get("domains", [])),
            counts=values.get("counts", {}),
            ranks={model: tuple(files) for model, files in values.get("ranks", {}).items()},
            settings=values.get("settings", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "not a results file", file=path, found=error, expected="what `mdrec evaluate` writes"
        ) from None


def _read_row(values: dict[str, Any]) -> Row:
    interval = {name: (ends[0], ends[1]) for name, ends in values["interval"].items()}
    return Row(
        values["model"], values["domain"], values["users"], values["queries"], values["metrics"], interval,
        values.get("slice"), values.get("draw_sd", {}),
    )  # fmt: skip
