"""The runs of an experiment: ordinary run folders, each trained and evaluated once, whenever that is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.compare import load_runs
from mdrec_jax.evaluate.protocol import Split
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results
from mdrec_jax.files import read_object
from mdrec_jax.train.evaluation import evaluate_runs, evaluation_file, write_evaluation
from mdrec_jax.train.fit import fit
from mdrec_jax.train.loop import Interrupted
from mdrec_jax.train.runs.run_folder import RunFolder, differences, read_data
from mdrec_jax.train.runs.show import summarise_run
from mdrec_jax.train.trained import load_run

MAY_DIFFER = ("hardware", "logging")
"""Fields in which a run that is there already may differ from the run that is asked for."""


def seed_folder(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}"


def check_runs(runs: Mapping[Path, RunConfig], dataset: Dataset) -> None:
    """Refuse folders that hold other runs than those that are asked for, before anything is trained.

    Raises:
        InputError: naming the folder and the first field that differs.
    """
    for path, config in runs.items():
        folder = RunFolder(path)
        if not folder.holds_a_run():
            continue
        record = read_object(folder.config, "config", "dataset")
        changed = differences(record["config"], config.to_plain())
        changed = {name: values for name, values in changed.items() if name.split(".")[0] not in MAY_DIFFER}
        if read_data(folder)[1] != dataset.hash:
            changed["dataset.hash"] = (read_data(folder)[1], dataset.hash)
        for name, (old, new) in changed.items():
            raise InputError(
                "the folder holds another run",
                file=folder.config,
                column=name,
                found=old,
                expected=str(new),
                hint="give another --out, or the settings that this one was begun with",
            )


def finish(
    config: RunConfig,
    dataset: Dataset,
    path: Path,
    splits: Sequence[Split],
    protocols: Sequence[str],
    *,
    by: str = "an experiment",
) -> bool:
    """Train a run and evaluate its best checkpoint, or what is left of that to do. Whether anything was. A look at the
    test split is recorded in the run's folder with the command (`by`) that made it.

    Raises:
        Interrupted, NonFiniteError: as `fit`.
    """
    folder = RunFolder(path)
    wanted: list[tuple[Split, str]] = [(split, protocol) for split in splits for protocol in protocols]
    missing = [one for one in wanted if not evaluation_file(folder, *one).exists()]
    if missing:
        try:
            fit(config, dataset, folder, resume=folder.holds_a_run())
        except Interrupted as stop:
            raise Interrupted(f"{path}: interrupted; the same command again goes on from here") from stop
        run = load_run(path, dataset)
        for split, protocol in missing:
            write_evaluation(folder, *evaluate_runs([run], protocol, split, by=by))
    return bool(missing)


def ranks_of(paths: Sequence[Path], split: str, protocol: str) -> tuple[Results, list[Ranks]]:
    """The first run's results, and the ranks of all, one entry a run."""
    _, results, ranks = load_runs([evaluation_file(RunFolder(path), split, protocol) for path in paths])
    return results, ranks


def course_of(paths: Sequence[Path]) -> tuple[float, float]:
    """Steps that the runs took, and targets a second that they trained on: means over the runs."""
    summaries = [summarise_run(path) for path in paths]
    rates = [one.targets_per_second or 0.0 for one in summaries]
    return mean([one.step for one in summaries]), mean(rates)


def place_of(metric: str) -> tuple[str, str]:
    """The row and the column of a results table where a validation metric stands: `macro/mrr` -> (`macro`, `mrr`)."""
    domain, _, name = metric.rpartition("/")
    return domain or "all", name
