"""What each part of the flagship is worth: the part beside the same model without it, at equal FLOPs.

    python benchmarks/parts.py --base world --data data/synthetic --out runs/parts-world [--parts contrast,...]
        [--seeds 0,1,2]

Of a part's settings the best on the validation split with the first seed trains the other seeds too, and so does the
plain model; where the part costs more FLOPs a step, the plain model's feed-forward layer is made wider until it costs
as much. The test split is asked once of the chosen setting and of its control. The difference is paired over users, and
over seeds where the part is an objective: the runs of a seed then start alike and read the same batches. Run folders
are kept in --out, and the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdrec_jax.config import RunConfig, load_preset
from mdrec_jax.data.dataset import Dataset, open_dataset
from mdrec_jax.evaluate.compare import Difference, compare
from mdrec_jax.evaluate.protocol import Split
from mdrec_jax.evaluate.results import BASELINES
from mdrec_jax.experiments.config_fields import with_fields
from mdrec_jax.experiments.costs import step_flops
from mdrec_jax.experiments.runs import finish, place_of, ranks_of, seed_folder
from mdrec_jax.models.config import RecommenderConfig

type Fields = dict[str, Any]

SMALL = {
    "model.dim": 64, "model.embedding_scale": 8.0, "model.experts.per_width": 0, "cooccurrence.weight": 0.0,
    "train.epochs": 8.0, "train.evaluate_every": 4.0,
}  # fmt: skip
BASES: dict[str, tuple[str, Fields]] = {
    "world": ("mdrec", {"train.epochs": 12.0, "train.evaluate_every": 3.0, "train.patience": 0}),
    "abxi": ("abxi", SMALL | {"model.date_days": 0.0, "model.views.in_domain": True, "model.views.path_rank": 8}),
    "beauty": ("beauty", {"cooccurrence.weight": 0.0, "train.epochs": 8.0, "train.evaluate_every": 4.0}),
}
"""A preset, and what is changed in it."""
NOISY: Fields = {"batching.noise.share": 0.3}


@dataclasses.dataclass(frozen=True)
class Part:
    """Settings to choose from, and what both sides of the comparison share."""

    settings: tuple[Fields, ...]
    common: Fields = dataclasses.field(default_factory=dict)
    objective: bool = True
    """Only the loss differs from the plain model's."""


def contrast(form: str) -> tuple[Fields, ...]:
    name = "objectives.contrastive"
    return tuple(
        {f"{name}.intra": intra, f"{name}.inter": inter, f"{name}.form": form, f"{name}.temperature": heat}
        for intra, inter, heat in ((0.1, 0.0, 0.1), (0.0, 0.1, 0.1), (0.03, 0.03, 0.1), (0.1, 0.1, 0.5))
    )


PARTS: dict[str, Part] = {
    "contrast": Part(contrast("decoupled")),
    "robust contrast, 30 % of events replaced": Part(contrast("robust"), NOISY),
    "taxonomy": Part(tuple({"objectives.taxonomy.weight": weight} for weight in (0.01, 0.1, 1.0))),
    "transfer": Part(
        tuple(
            {"objectives.transfer.weight": weight, "objectives.transfer.sharpness": sharpness}
            for weight, sharpness in ((0.1, 1.0), (0.5, 1.0), (0.1, 4.0))
        )
    ),
    "mixers": Part(
        tuple(
            {"model.mixers.kinds": kinds}
            for kinds in (
                ["attention", "convolution"],
                ["attention", "context"],
                ["attention", "convolution", "context"],
            )
        ),
        objective=False,
    ),
    "learned memory": Part(
        tuple(
            {"model.learned_memory.local": local, "model.learned_memory.shared": shared}
            for local, shared in ((16, 0), (0, 16), (16, 16))
        ),
        objective=False,
    ),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs of one base on one data set."""

    config: RunConfig
    dataset: Dataset
    out: Path
    seeds: tuple[int, ...]

    def run(self, fields: Fields, seed: int, splits: Sequence[Split]) -> Path:
        """The folder of a run that is trained and evaluated."""
        shown = {name: "+".join(value) if isinstance(value, list) else value for name, value in fields.items()}
        name = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(shown.items())) or "plain"
        path = seed_folder(self.out / name, seed)
        config = dataclasses.replace(with_fields(self.config, fields), seed=seed)
        finish(config, self.dataset, path, splits, (self.protocol,), by="benchmarks/parts.py")
        return path

    @property
    def protocol(self) -> str:
        return self.config.train.protocol

    def value(self, path: Path, split: str) -> float:
        where, metric = place_of(self.config.train.metric)
        rows = ranks_of([path], split, self.protocol)[0].rows
        return next(row.metrics[metric] for row in rows if row.domain == where and row.model not in BASELINES)

    def flops(self, fields: Fields) -> float:
        return step_flops(with_fields(self.config, fields), self.dataset)

    def control(self, part: Fields, common: Fields) -> Fields:
        """The plain model with the narrowest feed-forward layer at which it costs what the part costs."""
        model = self.config.model
        assert isinstance(model, RecommenderConfig)

        def with_width(width: int) -> Fields:
            return common | {"model.ffn_multiple": width / model.dim}

        now = self.flops(common)
        missing = 0.99 * self.flops(common | part) - now
        if missing <= 0:
            return dict(common)
        step = self.flops(with_width(model.ffn_width + 64)) - now
        return with_width(model.ffn_width + 8 * math.ceil(8 * missing / step))

    def worth(self, part: Part) -> tuple[Fields, Fields, list[Path], list[Path]]:
        """The chosen setting, its control, and the runs of both."""
        tried = {number: self.run(part.common | fields, self.seeds[0], ("validation",)) for number, fields in
                 enumerate(part.settings)}  # fmt: skip
        chosen = part.settings[max(tried, key=lambda number: self.value(tried[number], "validation"))]
        plain = part.common if part.objective else self.control(chosen, part.common)
        both = ("validation", "test")
        ours, theirs = (
            [self.run(fields, seed, both) for seed in self.seeds] for fields in (part.common | chosen, plain)
        )
        return chosen, plain, ours, theirs

    def against(self, ours: Sequence[Path], theirs: Sequence[Path], split: str, paired: bool) -> Difference:
        where, metric = place_of(self.config.train.metric)
        first, second = (ranks_of(list(each), split, self.protocol)[1] for each in (ours, theirs))
        every = compare(first, second, (metric,), domains=self.dataset.manifest.domains, paired_seeds=paired)
        return next(one for one in every if one.where == where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    preset, fields = BASES[args.base]
    seeds = tuple(map(int, args.seeds.split(",")))
    study = Study(with_fields(load_preset(preset), fields), open_dataset(args.data), args.out, seeds)
    print(
        f"| part | chosen of | setting | plain | {study.config.train.metric} | minus plain (95 %), test | validation |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    wanted = [part.strip() for part in args.parts.split(",")]
    for name, part in PARTS.items():
        if not any(name.startswith(one) for one in wanted):
            continue
        chosen, plain, ours, theirs = study.worth(part)
        gaps = [study.against(ours, theirs, split, part.objective) for split in ("test", "validation")]
        shown = [f"{g.difference:+.4f} ({g.interval[0]:+.4f} {g.interval[1]:+.4f})" for g in gaps]
        setting, control = (", ".join(f"{k.partition('.')[2]} {v}" for k, v in d.items()) for d in (chosen, plain))
        figures = f"{gaps[0].first:.4f} / {gaps[0].second:.4f}"
        print(
            f"| {name} | {len(part.settings)} | {setting} | {control} | {figures} | {' | '.join(shown)} |", flush=True
        )


if __name__ == "__main__":
    main()
