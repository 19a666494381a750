"""Probes of a disentangled model: what its codes give away, and what they are worth.

Every history of the evaluation set is queried for its last event's own domain, so that the mixed and the in-domain view
stand at the same event. From each code a logistic regression and a multilayer perceptron guess that domain; a shared
code should leave them at chance. (One that is whitened is read before it is told the target's domain, with the
statistics that the checkpoint holds.) An empty code does that too, so each code also ranks the split's targets by
itself. On a planted world, ridge regressions read the user's true factors out of each code.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mdrec_jax.data.batching.queries import QueryList
from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.synthetic import load_truth
from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.evaluation_set import EvaluationSet
from mdrec_jax.evaluate.metrics import question_metrics
from mdrec_jax.evaluate.probes.linear_probe import Figure, balanced_accuracy, explained, share_of
from mdrec_jax.evaluate.protocol import Protocol, describe
from mdrec_jax.evaluate.ranking import rank_queries
from mdrec_jax.evaluate.scorer import Scorer, codes_at, last_events

CODES = ("shared", "specific", "h")
REMOVED = "specific, domain embedding removed"
HIDDEN = 128
"""Width of the perceptron's hidden layer."""


@dataclass(frozen=True)
class Probes:
    """What the probes of one run found.

    Args:
        protocol: of the ranking.
        dataset, config: hashes of the data set and the run's config.
        histories, users: how many were probed.
        chance: balanced accuracy of a guess that knows nothing.
        codes: code -> name of a figure -> the figure: `logistic` and `mlp` (balanced accuracy for the last event's
            domain), `ndcg@10` (ranking by the code alone), `kept` (that over the same of `h`); on a planted world
            `r2_shared` and `r2_specific` (of the user's planted factors, the specific ones in the last event's domain).
        domain_embedding: whether the model adds an embedding of the domain to its inputs. If so, the code REMOVED is
            `specific` with every domain's embedding replaced by their mean; if not, there is nothing to remove.
    """

    protocol: Protocol
    dataset: str
    config: str
    seed: int
    histories: int
    users: int
    chance: float
    codes: dict[str, dict[str, Figure]]
    domain_embedding: bool

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        codes = {code: {name: f._asdict() for name, f in row.items()} for code, row in self.codes.items()}
        return fields | {"protocol": self.protocol.to_json(), "codes": codes}


def probe(scorer: Scorer, eval_set: EvaluationSet, *, config: str, seed: int = 0) -> Probes:
    """Probes a model at the histories of some queries.

    Args:
        eval_set: the queries that the codes rank.
        config: hash of the run's config.
        seed: of the split of users and of the classifiers.

    Raises:
        InputError: a model without a shared and a specific code, or histories that all end in one domain.
    """
    histories = last_events(eval_set.queries)
    domain, user = histories.domain, histories.user
    if len(np.unique(domain)) < 2:
        raise InputError("a probe for the domain needs histories that end in two domains", file=eval_set.dataset.path)
    codes: dict[str, dict[str, Figure]] = {}
    factors, whitened = planted(eval_set.dataset, histories), bool(scorer.params.statistics)
    for code in CODES:
        name = "whitened" if code == "shared" and whitened else code
        x = codes_at(scorer, eval_set.dataset, histories, name)
        codes[code] = read(x, domain, user, seed)
        for name, (values, group) in factors.items():
            codes[code][name] = explained(x, values, user, group, seed=seed)
    embedded = scorer.params.dense["inputs"].get("domain") is not None
    if embedded:
        x = codes_at(without_domain_embedding(scorer), eval_set.dataset, histories, "specific")
        codes[REMOVED] = read(x, domain, user, seed)
    for code, figures in rank_by(scorer, eval_set).items():
        codes[code] |= figures
    return Probes(
        protocol=eval_set.protocol,
        dataset=eval_set.dataset.hash,
        config=config,
        seed=seed,
        histories=len(histories),
        users=len(np.unique(user)),
        chance=1.0 / len(np.unique(domain)),
        codes=codes,
        domain_embedding=embedded,
    )


def read(
    x: Float32[np.ndarray, "N D"], domain: Int[np.ndarray, " N"], user: Int[np.ndarray, " N"], seed: int
) -> dict[str, Figure]:
    """How often a code gives its domain away."""
    return {
        "logistic": balanced_accuracy(x, domain, user, seed=seed),
        "mlp": balanced_accuracy(x, domain, user, hidden=HIDDEN, seed=seed),
    }


def planted(
    dataset: Dataset, histories: QueryList
) -> dict[str, tuple[Float32[np.ndarray, "N K"], Int[np.ndarray, " N"]]]:
    """The planted factors of each history's user, and the groups that are regressed apart (each domain's specific
    factors have axes of their own); empty where nothing was planted."""
    if not (dataset.path / "truth").is_dir():
        return {}
    factors = load_truth(dataset).factors
    shared = factors.user_shared[histories.user].astype(np.float32)
    specific = factors.user_specific[histories.user, histories.domain].astype(np.float32)
    return {
        "r2_shared": (shared, np.zeros(len(histories), int)),
        "r2_specific": (specific, histories.domain),
    }


def rank_by(scorer: Scorer, eval_set: EvaluationSet) -> dict[str, dict[str, Figure]]:
    """NDCG@10 of each code by itself, and its share of what the whole state reaches."""
    alone = dataclasses.replace(scorer, cooccurrence=None)
    values = {code: question_metrics(rank_queries(alone, eval_set, code), ("ndcg@10",)) for code in CODES}
    whole = values["h"].values[:, 0]
    return {
        code: {
            "ndcg@10": share_of(found.values[:, 0], np.ones(len(whole)), found.user),
            "kept": share_of(found.values[:, 0], whole, found.user),
        }
        for code, found in values.items()
    }


def without_domain_embedding(scorer: Scorer) -> Scorer:
    """The same model, whose inputs get the mean of the domains' embeddings in place of their own."""
    inputs = scorer.params.dense["inputs"]
    mean = jnp.broadcast_to(inputs["domain"].mean(0, keepdims=True), inputs["domain"].shape)
    dense = scorer.params.dense | {"inputs": inputs | {"domain": mean}}
    return dataclasses.replace(scorer, params=dataclasses.replace(scorer.params, dense=dense))


def probes_table(probes: Probes) -> RenderableType:
    """The figures as a table for people."""
    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("code", "measure"):
        table.add_column(name)
    for name in ("value", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for code, row in probes.codes.items():
        for place, (name, found) in enumerate(row.items()):
            last = place == len(row) - 1
            cells = f"{found.value:.3f}", f"{found.low:.3f}-{found.high:.3f}"
            table.add_row("" if place else code, name, *cells, end_section=last)
    title = Text(f"Probes of codes at {probes.histories:,} histories of {probes.users:,} users", style="bold")
    embedding = "" if probes.domain_embedding else "; the model has no domain embedding to remove"
    caption = (
        f"logistic, mlp: balanced accuracy for the domain of the last event, chance {probes.chance:.3f}; "
        f"ndcg@10: ranking by the code alone ({describe(probes.protocol)}); kept: over that of h; "
        f"r2: ridge regression of planted factors{embedding}; data set {probes.dataset[:12]}, "
        f"config {probes.config[:12]}; 95 %: bootstrap over users"
    )
    return Group(title, table, Text(caption, style="dim"))
