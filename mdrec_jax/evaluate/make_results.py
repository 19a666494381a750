"""From ranks to results: quick means for a validation; rows with the intervals that users and seeds give them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate import bootstrap
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.metrics import (
    DEFAULT_METRICS,
    Group,
    QuestionMetrics,
    domain_groups,
    draw_means,
    question_metrics,
    slice_groups,
    suitable_metrics,
)
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results, Row


def mean_metrics(ranks: Ranks, names: Sequence[str], domains: Sequence[str]) -> dict[str, float]:
    """Means without intervals: `ndcg@10` over all questions; with several domains `macro/ndcg@10`, their unweighted
    mean, and `NAME/ndcg@10` for each that has questions.

    Raises:
        InputError: a name that means nothing here.
    """
    questions = question_metrics(ranks, names)
    means = dict(zip(names, questions.values.mean(axis=0).tolist(), strict=True))
    if len(domains) == 1:
        return means
    present = np.unique(questions.domain)
    by_domain = np.stack([questions.values[questions.domain == domain].mean(axis=0) for domain in present])
    for column, name in enumerate(names):
        means[f"macro/{name}"] = float(by_domain[:, column].mean())
        means |= {f"{domains[d]}/{name}": float(v) for d, v in zip(present, by_domain[:, column], strict=True)}
    return means


def make_results(
    eval_set: EvaluationSet,
    models: Mapping[str, Sequence[Ranks]],
    *,
    config: str | None,
    seeds: Sequence[int] = (),
    selection: str | None = None,
    recipe: str | None = None,
    length: Mapping[str, float] | None = None,
    metrics: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
    draws: int = bootstrap.DRAWS,
) -> Results:
    """The results of some models on one evaluation set.

    Args:
        eval_set: what the ranks are about.
        models: name -> ranks, one entry a seed (a baseline has one). Put the baselines first (`baseline_ranks`).
        config: hash of the run's config; None where there are only baselines.
        seeds: of the runs.
        selection: the validation metric that chose the checkpoints.
        recipe: hash of the runs' config, its seed left out; None where nothing was trained.
        length: what says where the runs end.
        metrics: empty = those that suit the data set.
        counts: more of what was left out or unknown, by reason.
        draws: of the bootstrap.

    Raises:
        InputError: nothing to evaluate, or runs of a model with ranks of different queries.
    """
    dataset: Dataset = eval_set.dataset
    names = tuple(metrics) or suitable_metrics(dataset.manifest.ordered)
    rows, slices = [], []
    for model, ranks in models.items():
        whole, parts = model_rows(model, ranks, dataset.manifest.domains, metrics=names, draws=draws)
        rows.extend(whole)
        slices.extend(parts)
    return Results(
        protocol=eval_set.protocol,
        dataset=dataset.hash,
        config=config,
        rows=tuple(rows),
        slices=tuple(slices),
        seeds=tuple(seeds),
        selection=selection,
        recipe=recipe,
        length=dict(length or {}),
        source=dataset.manifest.source,
        domains=dataset.manifest.domains,
        counts={**eval_set.counts, **_without_history(eval_set), **(counts or {})},
    )


def _without_history(eval_set: EvaluationSet) -> dict[str, int]:
    empty = int((eval_set.queries.history_length == 0).sum())
    return {"queries without any visible event": empty} if empty else {}


def model_rows(
    model: str,
    ranks: Sequence[Ranks],
    domains: Sequence[str],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(rows by domain, `all` and `macro`; rows by slice) of one model.

    Args:
        model: its name in the table.
        ranks: of one run, or of runs that differ in their seed: metrics are means over them.
        domains: the data set's domains.
        metrics: their names.
        draws, seed: of the bootstrap: over users, and where there are several seeds over those too.

    Raises:
        InputError: no query at all, or runs with ranks of different queries.
    """
    if not ranks or not len(ranks[0]):
        raise InputError("nothing to evaluate", found="no query", expected="at least one target in the split")
    by_seed = [question_metrics(part, metrics) for part in ranks]
    questions = mean_over_seeds(by_seed)
    whole, parts = domain_groups(questions, domains), slice_groups(questions)
    groups = [*whole, *parts]
    values = np.concatenate([part.values for part in by_seed], axis=1)
    sums, counts = bootstrap.resampled_sums(
        questions.user, values, [group.member for group in groups], draws=draws, seed=seed
    )
    drawn = bootstrap.ratio(sums, counts).reshape(draws, len(groups), len(ranks), len(questions.names))
    generator = np.random.default_rng(np.random.SeedSequence([seed, draws, len(ranks)]))
    rows = [_row(model, group, questions, _ends(drawn[:, index], generator)) for index, group in enumerate(groups)]
    by_domain, by_slice = rows[: len(whole)], rows[len(whole) :]
    if len(whole) > 1:
        ends = _ends(drawn[:, : len(whole) - 1].mean(axis=1), generator)
        by_domain.append(_macro(by_domain[:-1], by_domain[-1], ends))
    if ranks[0].rank.shape[1] > 1:
        means = draw_means(ranks, metrics, [group.member for group in groups])
        macro = means[:, : len(whole) - 1].mean(axis=1, keepdims=True) if len(whole) > 1 else means[:, :0]
        by_domain = _with_spread(by_domain, np.concatenate([means[:, : len(whole)], macro], axis=1))
        by_slice = _with_spread(by_slice, means[:, len(whole) :])
    return tuple(by_domain), tuple(by_slice)


def _with_spread(rows: Sequence[Row], means: Float64[np.ndarray, "N C M"]) -> list[Row]:
    """The rows with the standard deviation of their figures over N draws of candidates."""
    spread = means.std(axis=0, ddof=1)
    return [
        replace(row, draw_sd=dict(zip(row.metrics, sd.tolist(), strict=True)))
        for row, sd in zip(rows, spread, strict=True)
    ]


def _ends(drawn: Float64[np.ndarray, "B S M"], generator: np.random.Generator) -> Float64[np.ndarray, "2 M"]:
    """The 95 % interval of each metric's mean over seeds, users and seeds being drawn."""
    both = bootstrap.add_seed_variation((drawn,), (1,), generator)
    return bootstrap.percentile_interval(both.reshape(-1, drawn.shape[2]))


def mean_over_seeds(parts: Sequence[QuestionMetrics]) -> QuestionMetrics:
    """The mean of runs over the same questions.

    Raises:
        InputError: they were not.
    """
    for part in parts[1:]:
        same = np.array_equal(part.question, parts[0].question) and np.array_equal(part.user, parts[0].user)
        if not same or part.names != parts[0].names:
            raise InputError("runs of different seeds have different questions or metrics")
    return replace(parts[0], values=np.mean([part.values for part in parts], axis=0))


def _row(model: str, group: Group, questions: QuestionMetrics, ends: Float64[np.ndarray, "2 M"]) -> Row:
    mean, (low, high) = questions.values[group.member].mean(axis=0), ends
    users = len(np.unique(questions.user[group.member]))
    return Row(
        model=model,
        domain=group.domain,
        users=users,
        queries=int(group.member.sum()),
        metrics=dict(zip(questions.names, mean.tolist(), strict=True)),
        interval={name: (float(a), float(b)) for name, a, b in zip(questions.names, low, high, strict=True)},
        slice=group.slice,
    )


def _macro(domains: Sequence[Row], everything: Row, ends: Float64[np.ndarray, "2 M"]) -> Row:
    """The unweighted mean over the domains, with the ends of its intervals."""
    names, (low, high) = list(everything.metrics), ends
    return replace(
        everything,
        domain="macro",
        metrics={name: float(np.mean([row.metrics[name] for row in domains])) for name in names},
        interval={name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)},
    )
