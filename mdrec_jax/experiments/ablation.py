"""An ablation: a run of `mdrec`, the same without each of its parts, and controls that spend the parts' cost otherwise.

    full                     the run as it is
    without PART             one part turned off, the others as they are
    all off                  every part turned off: `sasrec`
    all off, deeper          with more layers: as many FLOPs a step as the full run
    all off, longer          with more steps: as many FLOPs in all
    all off, wider           with a wider feed-forward layer: as many dense parameters

Every row is the mean over the same seeds, and its difference from the full run has the paired interval over seeds and
users (`evaluate.compare`).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError
from mdrec_jax.evaluate.compare import Difference, compare
from mdrec_jax.evaluate.make_results import model_rows
from mdrec_jax.evaluate.protocol import Protocol, Split
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import BASELINES, Results, Row
from mdrec_jax.experiments.costs import Cost, Costs, parameters
from mdrec_jax.experiments.matched_controls import deeper, longer, wider
from mdrec_jax.experiments.part_switches import all_off, switches_on, without
from mdrec_jax.experiments.runs import check_runs, course_of, finish, place_of, ranks_of, seed_folder
from mdrec_jax.terminal import say

COSTS = "costs.json"


@dataclass(frozen=True)
class Variant:
    """One row of an ablation, before it is run.

    Args:
        name: in the table.
        config: of its runs; each has a seed of its own.
        cost: its parameters and FLOPs.
        change: of a control, what it changes.
    """

    name: str
    config: RunConfig
    cost: Cost
    change: str = ""

    @property
    def folder(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")

    def runs(self, out: Path, seeds: Sequence[int]) -> dict[Path, RunConfig]:
        """The folder and the configuration of each seed's run."""
        return {seed_folder(out / self.folder, seed): replace(self.config, seed=seed) for seed in seeds}


def variants(config: RunConfig, costs: Costs) -> list[Variant]:
    """The rows of an ablation. A part that is the only one is turned off by `all off`; controls that would cost no
    more than `all off` are left out.

    Raises:
        ConfigError: no run of `mdrec`, or one with no part on.
    """
    on = switches_on(config)
    if not on:
        raise ConfigError("every part is off already", column="model", expected="a run with a part that is on")
    rows = [Variant("full", config, costs.of(config))]
    for switch in on:
        less = without(config, switch)
        if switches_on(less):
            rows.append(Variant(f"without {switch.name}", less, costs.of(less)))
    base = all_off(config)
    bare = Variant("all off", base, costs.of(base))
    controls = {
        "deeper": deeper(base, rows[0].cost, costs.of),
        "longer": longer(base, rows[0].cost, costs.of),
        "wider": wider(base, rows[0].cost, lambda config: parameters(config, costs.dataset)[0]),
    }
    found = {f"all off, {name}": control for name, control in controls.items() if control is not None}
    return [*rows, bare, *(Variant(n, c.config, costs.of(c.config), c.change) for n, c in found.items())]


def chosen(rows: Sequence[Variant], names: Sequence[str]) -> list[Variant]:
    """The full run and the rows whose folders have these names.

    Raises:
        ConfigError: there is no such row.
    """
    folders = [row.folder for row in rows[1:]]
    for name in names:
        if name not in folders:
            raise ConfigError("no such row", column="--only", found=name, expected=f"some of {', '.join(folders)}")
    return [rows[0], *(row for row in rows[1:] if row.folder in names)]


@dataclass(frozen=True)
class Measured:
    """One row of an ablation after its runs, under one protocol.

    Args:
        steps, targets_per_second: means over its runs.
        rows: split -> the figures by domain.
        differences: of the last split's figures from the full run's; empty for the full run.
    """

    variant: Variant
    runs: tuple[Path, ...]
    steps: float
    targets_per_second: float
    rows: dict[str, tuple[Row, ...]]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Ablation:
    """The rows of an ablation under one protocol, the baselines' figures beside them (split -> rows)."""

    protocol: Protocol
    dataset: str
    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    selection: str
    baselines: dict[str, tuple[Row, ...]]
    measured: tuple[Measured, ...]


def ablate(
    rows: Sequence[Variant],
    dataset: Dataset,
    out: Path,
    seeds: Sequence[int],
    splits: Sequence[Split] = ("validation",),
    *,
    by: str = "ablate",
) -> list[Ablation]:
    """Run every variant with every seed, or what is left of that to do, and put them together: full ranking, and the
    protocol that the checkpoints were chosen by where that is another.

    Args:
        rows: the variants, the full run first.
        out: of the run folders.
        splits: whose figures are shown, the last one's as differences too; with `test` every run records a look.
        by: the command, in the record of looks at test.

    Raises:
        InputError: a folder in `out` holds another run.
        Interrupted, NonFiniteError: as `train.fit.fit`; what was done stays.
    """
    check_runs({path: config for row in rows for path, config in row.runs(out, seeds).items()}, dataset)
    protocols = tuple(dict.fromkeys(("full", rows[0].config.train.protocol)))
    # One seed after the other: an ablation that is stopped early has whole seeds.
    todo = [(row, seed) for seed in seeds for row in rows]
    for number, (row, seed) in enumerate(todo, 1):
        ((path, config),) = row.runs(out, (seed,)).items()
        say(f"[{number}/{len(todo)}] {row.name}, seed {seed}: {path}", file=sys.stderr)
        if not finish(config, dataset, path, splits, protocols, by=by):
            say("  done before", file=sys.stderr)
    return [_together(rows, out, tuple(seeds), splits, protocol) for protocol in protocols]


def _together(
    rows: Sequence[Variant], out: Path, seeds: tuple[int, ...], splits: Sequence[Split], protocol: str
) -> Ablation:
    full: list[Ranks] = []
    measured, baselines = [], {}
    for row in rows:
        paths = tuple(row.runs(out, seeds))
        figures, results, ranks = {}, None, []
        for split in splits:
            results, ranks = ranks_of(paths, split, protocol)
            baselines[split] = tuple(one for one in results.rows if one.model in BASELINES)
            figures[split] = model_rows(row.name, ranks, results.domains, metrics=_metrics(row.config))[0]
        assert isinstance(results, Results)
        differences = compare(ranks, full, _metrics(row.config), domains=results.domains) if full else []
        full = full or ranks
        measured.append(Measured(row, paths, *course_of(paths), figures, tuple(differences)))
    selection = rows[0].config.train.metric
    return Ablation(results.protocol, results.dataset, results.domains, seeds, selection, baselines, tuple(measured))


def _metrics(config: RunConfig) -> tuple[str, ...]:
    """What is measured: the metric that checkpoints are chosen by, and the usual ones."""
    return tuple(dict.fromkeys((place_of(config.train.metric)[1], "hr@10", "ndcg@10", "mrr")))


def to_json(tables: Sequence[Ablation]) -> dict[str, Any]:
    """Everything that was measured."""
    first = tables[0]
    return {
        "dataset": first.dataset,
        "config": first.measured[0].variant.config.hash(),
        "seeds": list(first.seeds),
        "selection": first.selection,
        "tables": [_table_to_json(table) for table in tables],
    }


def _table_to_json(table: Ablation) -> dict[str, Any]:
    return {
        "protocol": table.protocol.to_json(),
        "baselines": {split: [row.to_json() for row in rows] for split, rows in table.baselines.items()},
        "rows": [
            {
                "variant": one.variant.name,
                "change": one.variant.change,
                "config": one.variant.config.hash(),
                "runs": [str(path) for path in one.runs],
                "dense": one.variant.cost.dense,
                "table": one.variant.cost.table,
                "flops_a_step": one.variant.cost.flops,
                "steps": one.steps,
                "flops": one.variant.cost.flops * one.steps,
                "targets_per_second": one.targets_per_second,
                **{split: [row.to_json() for row in rows] for split, rows in one.rows.items()},
                "minus_full": [difference.to_json() for difference in one.differences],
            }
            for one in table.measured
        ],
    }
