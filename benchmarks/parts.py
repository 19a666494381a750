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
from pathlib import Path

from study import Fields, Study

from mdrec_jax.config import load_preset
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.experiments.config_fields import with_fields

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


def worth(study: Study, part: Part) -> tuple[Fields, Fields, list[Path], list[Path]]:
    """The chosen setting, its control, and the runs of both."""
    ours_fields = study.chosen([part.common | fields for fields in part.settings])
    plain = part.common if part.objective else study.control(ours_fields, part.common)
    both = ("validation", "test")
    ours, theirs = ([study.run(fields, seed, both) for seed in study.seeds] for fields in (ours_fields, plain))
    return ours_fields, plain, ours, theirs


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
        chosen, plain, ours, theirs = worth(study, part)
        gaps = [study.against(ours, theirs, split, part.objective) for split in ("test", "validation")]
        shown = [f"{g.difference:+.4f} ({g.interval[0]:+.4f} {g.interval[1]:+.4f})" for g in gaps]
        setting, control = (", ".join(f"{k.partition('.')[2]} {v}" for k, v in d.items()) for d in (chosen, plain))
        figures = f"{gaps[0].first:.4f} / {gaps[0].second:.4f}"
        print(
            f"| {name} | {len(part.settings)} | {setting} | {control} | {figures} | {' | '.join(shown)} |", flush=True
        )


if __name__ == "__main__":
    main()
