"""From ranks to results: quick means for a validation, whole results with the baselines beside them."""

from collections.abc import Mapping, Sequence

import numpy as np

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.evaluate import bootstrap
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.metrics import question_metrics, suitable_metrics
from mdrec_jax.evaluate.model_rows import model_rows
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import Results


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
