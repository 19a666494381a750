"""What a training comes to: is the model above the best of the baselines, and by how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdrec_jax.evaluate.compare import Difference, compare
from mdrec_jax.evaluate.evaluation import mean_metrics
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import BASELINES


@dataclass(frozen=True)
class Verdict:
    """A model beside the best baseline, by one metric on one split.

    Args:
        model, baseline: their names in the table of results.
        metric: as in `train.metric`.
        seeds: of the model.
        gap: model minus baseline.
    """

    model: str
    baseline: str
    metric: str
    split: str
    seeds: int
    gap: Difference

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 0: over users, and over seeds where there are several."""
        return self.gap.interval[0] > 0

    def sentence(self) -> str:
        gap, (low, high) = self.gap, self.gap.interval
        over = "users and seeds" if self.seeds > 1 else "users"
        alone = "" if self.seeds > 1 else "; one seed, so this speaks of this run alone"
        return (
            f"verdict: {self.model} is {'above' if self.above else 'not above'} the best baseline on "
            f"{self.split} ({self.baseline}): {self.metric} {gap.first:.4f} against {gap.second:.4f}, by "
            f"{gap.difference:+.4f} (95 % interval over {over} {low:+.4f} to {high:+.4f}{alone})"
        )


def verdict(
    models: Mapping[str, Sequence[Ranks]], model: str, metric: str, split: str, domains: Sequence[str]
) -> Verdict | None:
    """The verdict on one of some models on one evaluation set; None where none of the others is a baseline.

    Args:
        models: name -> ranks, one entry a seed.
        model: the one that it is about.
        metric: `ndcg@10`, `macro/ndcg@10` or `NAME/ndcg@10`.
        domains: the data set's.
    """
    place, _, name = metric.rpartition("/")
    values = {
        other: mean_metrics(ranks[0], (name,), domains)[metric] for other, ranks in models.items() if other in BASELINES
    }
    if not values:
        return None
    best = max(values, key=lambda other: values[other])
    gaps = compare(models[model], models[best], (name,), domains=domains, deterministic=(False, True))
    gap = next(one for one in gaps if one.where == (place or "all"))
    return Verdict(model, best, metric, split, len(models[model]), gap)
