"""The baselines come out as they were published beside the public data sets: a check of the evaluation as a whole.

Full ranking has nothing random in it and agrees to the last digit. Where negatives are drawn, the mean of 20 draws is
compared with a figure that is itself one draw, within the tolerance that was published with it.
"""

import gzip
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.data.prepare.options import PrepareOptions
from mdrec_jax.data.prepare.prepare import prepare
from mdrec_jax.evaluate.baselines.run import baseline_ranks
from mdrec_jax.evaluate.evaluation_set import evaluation_set
from mdrec_jax.evaluate.make_results import mean_metrics
from mdrec_jax.evaluate.protocol import parse_protocol

NAMES = ("hr@1", "hr@5", "hr@10", "ndcg@10", "mrr")
FOLDERS = {
    "s3rec": "s3rec_beauty",
    "ml1m": "ml1m_loo",
    "fkcb": "fkcb_feddcsr",
    "abxi": "abxi_beauty_electronics",
    "xmarket": "forec_xmarket7",
}


@pytest.fixture(scope="module")
def prepared(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    made: dict[tuple[str, str], Dataset] = {}

    def make(source: str, tie: str = "seeded") -> Dataset:
        if (source, tie) not in made:
            out = tmp_path_factory.mktemp("baselines") / source
            options = PrepareOptions(tie=tie)  # pyright: ignore[reportArgumentType]
            made[source, tie] = prepare(source, [shared_data / FOLDERS[source]], out, options)
        return made[source, tie]

    return make


def baselines(dataset: Dataset, protocol: str) -> dict[str, dict[str, float]]:
    """Baseline -> metric (all queries) or domain/metric -> mean."""
    eval_set = evaluation_set(dataset, parse_protocol(protocol, source=dataset.manifest.source))
    domains = dataset.manifest.domains
    return {name: mean_metrics(ranks, NAMES, domains) for name, ranks in baseline_ranks(eval_set).items()}


def to_the_last_digit(found: dict[str, float], published: dict[str, float]) -> None:
    assert {name: round(found[name], 4) for name in published} == published


def test_beauty_full_ranking(prepared) -> None:
    found = baselines(prepared("s3rec"), "full")
    to_the_last_digit(found["popularity"], {"hr@10": 0.0110, "ndcg@10": 0.0053})
    published = {"hr@1": 0.0289, "hr@5": 0.0609, "hr@10": 0.0821, "ndcg@10": 0.0523, "mrr": 0.0478}
    to_the_last_digit(found["transitions"], published)


def test_ml1m_full_ranking(prepared) -> None:
    found = baselines(prepared("ml1m"), "full")
    to_the_last_digit(found["popularity"], {"hr@10": 0.0394, "ndcg@10": 0.0194})
    to_the_last_digit(found["transitions"], {"hr@1": 0.0669, "hr@10": 0.2541, "ndcg@10": 0.1479, "mrr": 0.1291})


def test_beauty_with_99_negatives(prepared) -> None:
    found = baselines(prepared("s3rec"), "uniform99")
    assert found["popularity"]["mrr"] == pytest.approx(0.1296, abs=0.004)
    assert found["popularity"]["hr@10"] == pytest.approx(0.2825, abs=0.006)
    assert found["transitions"]["mrr"] == pytest.approx(0.2609, abs=0.004)
    assert found["transitions"]["hr@10"] == pytest.approx(0.3990, abs=0.004)
    assert found["transitions"]["ndcg@10"] == pytest.approx(0.2798, abs=0.004)


def lines_of(folder: Path, split: str) -> list[list[int]]:
    text = gzip.decompress((folder / f"{split}_data.txt.gz").read_bytes()).decode()
    return [[int(value) for value in line.split()[1:]] for line in text.splitlines()]


def one_by_one(folder: Path) -> dict[str, dict[str, float]]:
    """The baselines of one FKCB domain from its files and their fixed candidates, item by item, in plain Python."""
    train, test = lines_of(folder, "train"), lines_of(folder, "test")
    with (folder / "prep_data" / "DisenVGSAN_test_data.pkl").open("rb") as file:
        fixed = pickle.load(file)
    counts = Counter(item for row in train for item in row)
    most = max(counts.values())
    matrix: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for row in train:
        for place, item in enumerate(row):
            for step, later in enumerate(row[place + 1 : place + 6], 1):
                matrix[item][later] += 1 / step
    totals = {item: sum(row.values()) for item, row in matrix.items()}
    ranks: dict[str, list[float]] = {"popularity": [], "transitions": []}
    for row, (_, target, negatives) in zip(test, fixed, strict=True):
        assert target == row[-1]
        scores: dict[int, float] = defaultdict(float)
        for back, item in enumerate(row[-2::-1][:5]):
            for later, value in matrix.get(item, {}).items():
                scores[later] += value / (totals[item] + 5) / (back + 1)
        for name, score in (
            ("popularity", lambda item: counts[item]),
            ("transitions", lambda item: scores.get(item, 0.0) + 1e-6 * counts[item] / most),  # noqa: B023
        ):
            theirs, own = np.array([score(item) for item in negatives]), score(target)
            ranks[name].append(1 + (theirs > own).sum() + (theirs == own).sum() / 2)
    measured = {}
    for name, values in ranks.items():
        rank = np.array(values)
        ndcg = ((rank <= 10) / np.log2(1 + rank)).mean()
        measured[name] = {"mrr": (1 / rank).mean(), "hr@10": (rank <= 10).mean(), "ndcg@10": ndcg}
    return measured


PUBLISHED_FKCB = {  # percent: popularity MRR, HR@10, NDCG@10; transitions the same. One draw of negatives each.
    "Food": (8.74, 18.47, 9.81, 25.55, 40.09, 28.45),
    "Kitchen": (5.30, 10.29, 5.65, 8.74, 14.82, 9.37),
    "Clothing": (2.52, 4.97, 2.54, 2.89, 5.08, 2.86),
    "Beauty": (3.96, 6.78, 3.54, 17.79, 27.25, 19.46),
}


def test_fkcb_with_its_fixed_candidates(prepared, shared_data: Path) -> None:
    """To the last digit what the definitions give when they are written out item by item."""
    found = baselines(prepared("fkcb"), "fixed:fixed")
    assert not any(name.startswith("Kitchen") for name in found["popularity"]), "Kitchen has no fixed candidates"
    for domain in ("Food", "Clothing", "Beauty"):
        expected = one_by_one(shared_data / FOLDERS["fkcb"] / domain)
        for baseline, metrics in expected.items():
            got = {name: found[baseline][f"{domain}/{name}"] for name in metrics}
            assert got == pytest.approx(metrics, abs=1e-9)
            values = np.array(PUBLISHED_FKCB[domain]).reshape(2, 3)[int(baseline != "popularity")] / 100
            assert got == pytest.approx(dict(zip(("mrr", "hr@10", "ndcg@10"), values, strict=True)), abs=0.0125)


def assert_within(found: dict[str, dict[str, float]], domain: str, published: dict[str, tuple], within: float) -> None:
    for baseline, values in published.items():
        got = {name: found[baseline][f"{domain}/{name}"] for name in ("mrr", "hr@10", "ndcg@10")}
        assert got == pytest.approx(dict(zip(got, values, strict=True)), abs=within), (domain, baseline)


@pytest.mark.slow
def test_fkcb_kitchen_in_the_mean_of_20_draws(prepared) -> None:
    found = baselines(prepared("fkcb"), "uniform999x20")
    values = [value / 100 for value in PUBLISHED_FKCB["Kitchen"]]
    assert_within(found, "Kitchen", {"popularity": tuple(values[:3]), "transitions": tuple(values[3:])}, 0.006)


@pytest.mark.slow
def test_abxi_in_the_mean_of_20_draws(prepared) -> None:
    """In the order of its file, which the figures were made in."""
    found = baselines(prepared("abxi", "file"), "uniform999x20")
    beauty = {"popularity": (0.0231, 0.0373, 0.0178), "transitions": (0.1139, 0.2080, 0.1301)}
    electronics = {"popularity": (0.0425, 0.0896, 0.0462), "transitions": (0.0727, 0.1462, 0.0830)}
    assert_within(found, "Beauty", beauty, 0.006)
    assert_within(found, "Electronics", electronics, 0.006)


XMARKET = {  # MRR, HR@10, NDCG@10 of transitions within the market; over all markets; NDCG@10 of popularity
    "ca": ((0.3325, 0.5084, 0.3603), (0.3277, 0.4775, 0.3484), 0.3146),
    "uk": ((0.4309, 0.5453, 0.4459), (0.4361, 0.5621, 0.4543), 0.3461),
    "fr": ((0.3939, 0.5044, 0.4070), (0.4052, 0.5348, 0.4238), 0.2448),
    "de": ((0.3895, 0.4970, 0.4022), (0.4158, 0.5321, 0.4308), 0.2616),
    "mx": ((0.5880, 0.6912, 0.6040), (0.5898, 0.6747, 0.6008), 0.5191),
    "jp": ((0.3374, 0.4045, 0.3407), (0.3545, 0.4579, 0.3665), 0.1999),
    "in": ((0.5050, 0.5565, 0.5067), (0.5079, 0.5690, 0.5122), 0.4396),
}
XMARKET_WITHIN = {"in": 0.025, "jp": 0.016, "mx": 0.009}
"""0.008 elsewhere. In mx one of the nine figures, a single draw, lies .0087 from the mean."""


@pytest.mark.slow
def test_xmarket_in_the_mean_of_20_draws(prepared) -> None:
    found = baselines(prepared("xmarket", "file"), "uniform99x20")
    for market, (local, pooled, popular) in XMARKET.items():
        within = XMARKET_WITHIN.get(market, 0.008)
        assert_within(found, market, {"transitions-local": local, "transitions": pooled}, within)
        assert found["popularity"][f"{market}/ndcg@10"] == pytest.approx(popular, abs=within)
