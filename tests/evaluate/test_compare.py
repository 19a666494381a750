"""Two models are compared over the same users; what is chance is not called clear."""

import json
from pathlib import Path

import numpy as np
import pytest

from mdrec_jax.errors import InputError
from mdrec_jax.evaluate.baselines.run import baseline_results
from mdrec_jax.evaluate.compare import compare, load_runs
from mdrec_jax.evaluate.protocol import Protocol, parse_protocol
from mdrec_jax.evaluate.ranks import Ranks
from mdrec_jax.evaluate.results import write_results
from tests.evaluate.worlds import two_domains

USERS = 800


def run(shift: float, seed: int, *, questions: int = USERS) -> Ranks:
    """Ranks that differ little from run to run, and a lot from user to user."""
    hard = np.random.default_rng(99).gamma(1.0, 20.0, questions)
    rank = 1 + np.floor(hard * np.exp(np.random.default_rng(seed).normal(shift, 0.1, questions)))
    number = np.arange(questions)
    return Ranks(
        query=number,
        question=number,
        user=(number // 2).astype(np.int32),
        domain=(number % 3 == 0).astype(np.int32),
        rank=rank[:, None].astype(np.float32),
        history_length=np.full(questions, 4, np.int32),
        cold=np.zeros(questions, bool),
        days=np.full(questions, -1, np.int32),
    )


def test_a_model_does_not_differ_from_itself() -> None:
    (one,) = compare([run(0, 0)], [run(0, 0)], ["mrr"])
    assert (one.difference, one.interval, one.p_value) == (0, (0, 0), 1)
    assert not one.significant


def test_pairing_finds_a_difference_that_two_intervals_would_hide() -> None:
    (one,) = compare([run(-0.15, 1)], [run(0, 0)], ["ndcg@10"])
    assert one.p_value < 0.01
    assert 0 < one.interval[0] < one.difference < one.interval[1]
    apart = run(0, 0)
    spread = np.std((apart.rank[:, 0] <= 10) / np.log2(1 + apart.rank[:, 0])) * 2 * 1.96 / np.sqrt(USERS)
    assert one.interval[1] - one.interval[0] < spread


def test_noise_between_seeds_widens_the_interval() -> None:
    steady = compare([run(0, 1), run(0, 2), run(0, 3)], [run(0, 4), run(0, 5), run(0, 6)], ["mrr"])[0]
    noisy = compare([run(s, 1) for s in (-0.4, 0, 0.4)], [run(s, 2) for s in (-0.4, 0, 0.4)], ["mrr"])[0]
    width = [high - low for low, high in (steady.interval, noisy.interval)]
    assert width[1] > 3 * width[0]


def test_seeds_that_go_together_may_be_drawn_together() -> None:
    ours, theirs = [run(s - 0.2, 1) for s in (-0.4, 0, 0.4)], [run(s, 2) for s in (-0.4, 0, 0.4)]
    (apart,), (together,) = (compare(ours, theirs, ["mrr"], paired_seeds=paired) for paired in (False, True))
    assert together.difference == apart.difference
    assert together.significant
    assert not apart.significant
    with pytest.raises(InputError, match="without a pair"):
        compare(ours, theirs[:2], ["mrr"], paired_seeds=True)


def test_false_alarms_are_rare() -> None:
    pairs = (compare([run(0, 2 * seed)], [run(0, 2 * seed + 1)], ["mrr"], draws=300)[0] for seed in range(60))
    assert sum(one.interval[0] > 0 or one.interval[1] < 0 for one in pairs) <= 9


def test_domains_and_slices_are_compared_too() -> None:
    a, b, everything, macro = compare([run(-0.1, 0)], [run(0, 1)], ["mrr"], domains=("a", "b"))
    assert [one.where for one in (a, b, everything, macro)] == ["a", "b", "all", "macro"]
    assert macro.difference == pytest.approx((a.difference + b.difference) / 2)
    assert macro.interval[0] < macro.difference < macro.interval[1]
    sliced = [one.where for one in compare([run(0, 0)], [run(0, 1)], ["mrr"], slices=True)]
    assert sliced == ["history 1-4", "warm target"]


def test_different_questions_are_refused() -> None:
    with pytest.raises(InputError, match="different questions"):
        compare([run(0, 0)], [run(0, 1, questions=10)], ["mrr"])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    world = two_domains(tmp_path / "world")
    for name, protocol in (("full", "full"), ("again", "full"), ("sampled", "uniform9")):
        results, ranks = baseline_results(world, parse_protocol(protocol))
        write_results(tmp_path / f"{name}.json", results, {model: [one] for model, one in ranks.items()})
    return tmp_path


def test_runs_are_loaded_from_several_files(files: Path) -> None:
    name, results, ranks = load_runs([files / "full.json", files / "again.json"], "transitions")
    assert (name, len(ranks), results.protocol.name) == ("transitions", 2, "full")


def test_results_of_different_protocols_are_refused(files: Path) -> None:
    with pytest.raises(InputError, match="different protocols"):
        load_runs([files / "full.json", files / "sampled.json"], "transitions")


def test_results_of_different_data_sets_are_refused(files: Path) -> None:
    values = json.loads((files / "again.json").read_text())
    (files / "again.json").write_text(json.dumps({**values, "dataset": "another"}))
    with pytest.raises(InputError, match="different data sets"):
        load_runs([files / "full.json", files / "again.json"], "transitions")


@pytest.mark.parametrize(("field", "other"), [("recipe", "ab"), ("length", {"epochs": 1.0})])
def test_runs_of_different_recipes_or_lengths_are_no_mean(files: Path, field: str, other: object) -> None:
    values = json.loads((files / "again.json").read_text())
    (files / "again.json").write_text(json.dumps({**values, field: other}))
    with pytest.raises(InputError, match=f"'{field}': the runs of a mean differ"):
        load_runs([files / "full.json", files / "again.json"], "transitions")


def test_an_unclear_or_unknown_model_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match="fewer than one model"):
        load_runs([files / "full.json"])
    with pytest.raises(InputError, match="no ranks of this model"):
        load_runs([files / "full.json"], "oracle")


def test_the_only_model_needs_no_name(files: Path) -> None:
    results, ranks = baseline_results(two_domains(files / "more"), Protocol())
    one, several = ({name: [ranks["popularity"]] for name in names} for names in (["sasrec"], ["sasrec", "hstu"]))
    baseline = {"popularity": [ranks["popularity"]]}
    for name, held, model in (("one", one | baseline, "sasrec"), ("alone", baseline, "popularity")):
        write_results(files / f"{name}.json", results, held)
        assert load_runs([files / f"{name}.json"])[0] == model
    for name, held in (("several", several), ("none", {})):
        write_results(files / f"{name}.json", results, held)
        with pytest.raises(InputError, match="fewer than one model"):
            load_runs([files / f"{name}.json"])
