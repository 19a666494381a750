"""Runs of one configuration on one data set with some of its fields changed: chosen on validation, compared on test."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mdrec_jax.config import RunConfig
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate.compare import Difference, compare
from mdrec_jax.evaluate.protocol import Split
from mdrec_jax.evaluate.results import BASELINES
from mdrec_jax.experiments.config_fields import with_fields
from mdrec_jax.experiments.costs import step_flops
from mdrec_jax.experiments.runs import finish, place_of, ranks_of, seed_folder
from mdrec_jax.models.config import RecommenderConfig

type Fields = dict[str, Any]
"""Values by the dotted names of their fields."""


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
        finish(config, self.dataset, path, splits, (self.protocol,), by="benchmarks")
        return path

    @property
    def protocol(self) -> str:
        return self.config.train.protocol

    def value(self, paths: Sequence[Path], split: str) -> float:
        """Mean over the runs of the metric that they are chosen by."""
        where, metric = place_of(self.config.train.metric)
        rows = [row for path in paths for row in ranks_of([path], split, self.protocol)[0].rows if row.domain == where]
        return mean(row.metrics[metric] for row in rows if row.model not in BASELINES)

    def chosen(self, settings: Sequence[Fields]) -> Fields:
        """The best setting on the validation split with the first seed."""
        tried = [self.value([self.run(fields, self.seeds[0], ("validation",))], "validation") for fields in settings]
        return settings[tried.index(max(tried))]

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

    def against(self, ours: Sequence[Path], theirs: Sequence[Path], split: str, paired: bool) -> Difference:
        where, metric = place_of(self.config.train.metric)
        first, second = (ranks_of(list(each), split, self.protocol)[1] for each in (ours, theirs))
        every = compare(first, second, (metric,), domains=self.dataset.manifest.domains, paired_seeds=paired)
        return next(one for one in every if one.where == where)
