"""What a domain gains from the others: one model of all domains beside a model of each domain by itself.

    mdrec prepare SOURCE PATH --out data/all
    mdrec prepare SOURCE PATH --out data/one --only-domains ONE        (and so on for each domain)
    python benchmarks/transfer.py PRESET --merged data/all --alone data/one data/two --out runs/transfer [--seeds 0,1,2]

With as many passes (--factors 1) the models of single domains cost together what the merged one does; a small domain
is given more, as many as validation says (--factors 1,4,16). Each run chooses its checkpoint by its own validation;
both models are asked for the same targets, and the difference is paired over seeds and users. Run folders are kept in
--out, and the same command goes on where it was stopped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np
import polars as pl

from mdrec_jax.config import RunConfig, load_preset, replace
from mdrec_jax.data.batching.queries import query_list
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.evaluate.compare import compare
from mdrec_jax.evaluate.protocol import Split
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.experiments.runs import finish, place_of, ranks_of, seed_folder
from mdrec_jax.train.runs.show import summarise_run


@dataclass(frozen=True)
class Study:
    """Runs of one preset, their folders, and the seeds."""

    config: RunConfig
    out: Path
    seeds: tuple[int, ...]

    def runs(self, dataset: Dataset, factor: float, seeds: Sequence[int], split: Split = "validation") -> list[Path]:
        """Folders of runs of so many times the preset's passes, trained and evaluated where they are not yet."""
        train = self.config.train
        several = dataset.num_domains > 1
        length = {"epochs": train.epochs * factor, "evaluate_every": train.evaluate_every * factor}
        config = replace(self.config, train=length | {"metric": train.metric if several else place_of(train.metric)[1]})
        paths = [seed_folder(self.out / f"{dataset.path.name}-{factor:g}", seed) for seed in seeds]
        for path, seed in zip(paths, seeds, strict=True):
            finish(replace(config, seed=seed), dataset, path, (split,), (train.protocol,), by="benchmarks/transfer.py")
        return paths

    def chosen(self, dataset: Dataset, factors: Sequence[float]) -> tuple[float, list[Ranks]]:
        """The factor that is best on validation with the first seed, and the test ranks of its runs, one a seed."""
        best = max(factors, key=lambda factor: validation_of(*self.runs(dataset, factor, self.seeds[:1])))
        return best, ranks_of(self.runs(dataset, best, self.seeds, "test"), "test", self.config.train.protocol)[1]


def validation_of(run: Path) -> float:
    best = summarise_run(run).best
    assert best is not None
    return best[1]


def asked(dataset: Dataset, domain: int) -> pl.DataFrame:
    """A domain's test targets in the order of their queries: raw user and raw item."""
    queries = query_list(dataset, "test")
    here = queries.domain == domain
    names = dataset.items(domain).select(target="id", raw_item="raw")
    users = dataset.users()["raw"].gather(queries.user[here])
    return pl.DataFrame({"raw_user": users, "target": queries.target[here]}).join(
        names, on="target", how="left", maintain_order="left"
    )


def of_domain(merged: Ranks, domain: int, like: Ranks) -> Ranks:
    """The merged model's ranks for one domain, numbered as that domain's own."""
    here = merged.domain == domain
    return with_fields(like, rank=merged.rank[here], history_length=merged.history_length[here], cold=merged.cold[here])


def check_same_targets(merged: Dataset, alone: Dataset, domain: int) -> None:
    """Fails where a data set of one domain does not ask for the merged one's targets, in its order."""
    ours, theirs = asked(merged, domain), asked(alone, 0)
    if not ours.select("raw_user", "raw_item").equals(theirs.select("raw_user", "raw_item")):
        raise SystemExit(f"{alone.path}: other test targets than in {merged.path}; prepare it with --only-domains")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--merged", type=Path, required=True)
    parser.add_argument("--alone", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--factors", default="1", help="passes of a domain by itself, in those of the preset")
    args = parser.parse_args()
    study = Study(load_preset(args.preset), args.out, tuple(map(int, args.seeds.split(","))))
    merged, alone = open_dataset(args.merged), [open_dataset(path) for path in args.alone]
    places = [merged.domain_index(one.manifest.domains[0]) for one in alone]
    for one, place in zip(alone, places, strict=True):
        check_same_targets(merged, one, place)
    _, metric = place_of(study.config.train.metric)
    _, together = study.chosen(merged, (1.0,))
    print(f"| domain | users | passes | {metric} alone | merged | merged minus alone (95 %) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one, place in zip(alone, places, strict=True):
        factor, apart = study.chosen(one, tuple(map(float, args.factors.split(","))))
        ours = [of_domain(ranks, place, like) for ranks, like in zip(together, apart, strict=True)]
        gap = compare(ours, apart, (metric,))[0]
        users, passes = len(np.unique(apart[0].user)), study.config.train.epochs * factor
        cells = f"{users:,} | {passes:g} | {gap.second:.4f} | {gap.first:.4f}"
        shown = f"{gap.difference:+.4f} ({gap.interval[0]:+.4f} {gap.interval[1]:+.4f})"
        shown += " over users, one seed: no claim" if gap.one_seed else ""
        print(f"| {one.manifest.domains[0]} | {cells} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
