"""Which of two models is better, and could it be chance: the paired bootstrap over seeds and users.

Both models have the same questions, so a draw takes the same users for both. Each model's seeds are drawn on their
own, since seed 0 of one model has nothing in common with seed 0 of another; but for runs that differ in their loss
alone, which start from the same parameters and read the same batches, seed by seed: those may be drawn in pairs.
`bootstrap.py` says how seeds are drawn. One training of a model says nothing of the next one: a comparison with one
seed has an interval over users alone and makes no claim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate import bootstrap
from mdrec_jax.evaluate.make_results import mean_metrics
from mdrec_jax.evaluate.metrics import QuestionMetrics, domain_groups, question_metrics, slice_groups
from mdrec_jax.evaluate.ranks import Ranks, load_ranks
from mdrec_jax.evaluate.results import BASELINES, Results, read_results


@dataclass(frozen=True)
class Difference:
    """One metric of two models in one domain or slice."""

    where: str
    metric: str
    first: float
    second: float
    interval: tuple[float, float]
    """95 % of the draws of first - second."""
    p_value: float
    """Two-sided: twice the share of draws on the other side of 0, at least 1 / draws."""
    queries: int
    one_seed: bool
    """Whether a trained model is there with one seed alone: the interval is then over users (and the other's seeds)."""

    @property
    def difference(self) -> float:
        return self.first - self.second

    @property
    def significant(self) -> bool:
        """Whether the interval, over users and seeds, leaves 0 out; never so where there is one seed."""
        return not self.one_seed and (self.interval[0] > 0 or self.interval[1] < 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where, "metric": self.metric, "first": self.first, "second": self.second,
            "difference": self.difference, "interval": list(self.interval), "p": self.p_value, "queries": self.queries,
            "one_seed": self.one_seed,
        }  # fmt: skip


def compare(
    first: Sequence[Ranks],
    second: Sequence[Ranks],
    metrics: Sequence[str],
    *,
    domains: Sequence[str] = ("all",),
    slices: bool = False,
    paired_seeds: bool = False,
    deterministic: tuple[bool, bool] = (False, False),
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> list[Difference]:
    """first - second for every metric: in every domain, over all questions, and as the domains' mean; or by slice.

    Args:
        first, second: the ranks of two models, one entry a seed, for the same queries.
        metrics: their names.
        domains: the data set's.
        slices: by slice instead of by domain.
        paired_seeds: a draw takes the same seeds of both models.
        deterministic: which of the two no seed has made: it has one entry and would come out the same again.
        draws, seed: of the bootstrap.

    Raises:
        InputError: the ranks are not about the same questions, or seeds that cannot be paired.
    """
    if paired_seeds and len(first) != len(second):
        raise InputError("seeds without a pair", found=f"{len(first)} and {len(second)} seeds", expected="as many each")
    measured = [[question_metrics(part, metrics) for part in parts] for parts in (first, second)]
    _check_same_questions([*measured[0], *measured[1]])
    like = measured[0][0]
    groups = slice_groups(like) if slices else domain_groups(like, domains)
    values = np.concatenate([part.values for parts in measured for part in parts], axis=1)
    sums, counts = bootstrap.resampled_sums(
        like.user, values, [group.member for group in groups], draws=draws, seed=seed
    )
    drawn = bootstrap.ratio(sums, counts).reshape(draws, len(groups), len(first) + len(second), len(metrics))
    generator = np.random.default_rng(np.random.SeedSequence([seed, len(first), len(second)]))
    one_seed = any(len(parts) == 1 and not sure for parts, sure in zip((first, second), deterministic, strict=True))
    means = np.asarray(
        [[np.mean([p.values[group.member].mean(0) for p in parts], axis=0) for parts in measured] for group in groups]
    )

    def differences(where: str, means: Any, drawn: Float64[np.ndarray, "B S M"], queries: int) -> list[Difference]:
        ours, theirs = drawn[:, : len(first)], drawn[:, len(first) :]
        parts = ((ours - theirs,), (1,)) if paired_seeds else ((ours, theirs), (1, -1))
        gap = bootstrap.add_seed_variation(*parts, generator)
        return _differences(where, metrics, means, gap, queries, one_seed)

    out = []
    for at, group in enumerate(groups):
        out += differences(group.slice or group.domain, means[at], drawn[:, at], int(group.member.sum()))
    if len(groups) > 1 and not slices:
        here = slice(len(groups) - 1)  # all but `all`
        out += differences("macro", means[here].mean(0), drawn[:, here].mean(1), out[-1].queries)
    return out


def _differences(
    where: str,
    metrics: Sequence[str],
    means: Float64[np.ndarray, "2 M"],
    gap: Float64[np.ndarray, "B K M"],
    queries: int,
    one_seed: bool,
) -> list[Difference]:
    least, gap = 1 / len(gap), gap.reshape(-1, len(metrics))
    low, high = bootstrap.percentile_interval(gap)
    return [
        Difference(
            where=where,
            metric=metric,
            first=float(means[0, column]),
            second=float(means[1, column]),
            interval=(float(low[column]), float(high[column])),
            p_value=_two_sided(gap[:, column], least),
            queries=queries,
            one_seed=one_seed,
        )
        for column, metric in enumerate(metrics)
    ]


def _two_sided(gap: Float64[np.ndarray, "B"], least: float) -> float:
    """Twice the share of draws on the smaller side of 0; draws of exactly 0 lie on both."""
    gap = gap[~np.isnan(gap)]
    side = min((gap <= 0).mean(), (gap >= 0).mean())
    return float(min(1.0, max(2 * side, least)))


def _check_same_questions(parts: Sequence[QuestionMetrics]) -> None:
    for part in parts[1:]:
        if not (np.array_equal(part.question, parts[0].question) and np.array_equal(part.user, parts[0].user)):
            raise InputError(
                "these results are about different questions",
                found=f"{len(part.question)} and {len(parts[0].question)} questions",
                expected="one data set, split and protocol",
            )


def load_runs(paths: Sequence[Path], model: str | None = None) -> tuple[str, Results, list[Ranks]]:
    """The ranks of one model from one results file, or from several that differ in their seed.

    Args:
        paths: results files.
        model: its name in them; None = the only model that is no baseline, or the only one at all.

    Raises:
        InputError: no such model or several, no ranks, files of different protocols or data sets, or runs that differ
            in more than their seed, or one of several that stopped before its end.
    """
    found: list[Ranks] = []
    results = [read_results(path) for path in paths]
    name = model or _only_model(results[0], paths[0])
    for path, one in zip(paths, results, strict=True):
        check_comparable(results[0], one, path)
        _check_same_model(results[0], one, path)
        if len(paths) > 1 and "stopped_at" in one.length:
            raise InputError(
                "a run that did not come to its end is no seed of a mean",
                file=path,
                found=f"step {one.length['stopped_at']} of {one.length.get('planned')}",
                expected="a run that was trained to the end",
                hint="go on with it (mdrec train --resume --run RUN) and evaluate it again",
            )
        if name not in one.ranks:
            raise InputError("no ranks of this model", file=path, found=name, expected=", ".join(one.ranks) or None)
        found.extend(load_ranks(path.parent / file) for file in one.ranks[name])
    return name, results[0], found


def _check_same_model(one: Results, other: Results, path: Path) -> None:
    """Refuses a mean over runs of different models, or of different lengths."""
    for column in ("recipe", "length"):
        mine, theirs = getattr(one, column), getattr(other, column)
        if mine != theirs:
            raise InputError(
                "the runs of a mean differ in more than their seed",
                file=path,
                column=column,
                found=theirs,
                expected=str(mine),
                hint="give the files of one model, then --with and those of the other",
            )


def _only_model(results: Results, path: Path) -> str:
    models = [name for name in results.ranks if name not in BASELINES] or list(results.ranks)
    if len(models) != 1:
        raise InputError(
            "more or fewer than one model",
            file=path,
            found=", ".join(models) or "no ranks at all",
            hint="name one with --model",
        )
    return models[0]


def check_comparable(one: Results, other: Results, path: Path) -> None:
    """Refuses two results that were not made under one protocol on one data set.

    Raises:
        InputError: they were not.
    """
    if one.dataset != other.dataset:
        raise InputError(
            "results of different data sets", file=path, column="dataset", found=other.dataset, expected=one.dataset
        )
    if one.protocol != other.protocol:
        mine, theirs = one.protocol.to_json(), other.protocol.to_json()
        field = next(name for name in mine if mine[name] != theirs[name])
        raise InputError(
            "results under different protocols",
            file=path,
            column=f"protocol.{field}",
            found=theirs[field],
            expected=str(mine[field]),
        )


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
