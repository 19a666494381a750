"""A domain's own model and the merged one are asked for the same targets, and compared person by person."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import transfer

from mdrec_jax.config import RunConfig
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.prepare.prepare import PrepareOptions
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import LoggingConfig, TrainConfig
from tests.data.make import DAY, make_dataset


def events(users: int = 40, items: int = 30) -> list[tuple[str, str, str, int]]:
    generator = np.random.default_rng(0)
    drawn = generator.random((users, 14)) < 0.6
    return [
        (f"u{user}", f"{name}-{int(items * generator.random() ** 2)}", name, place * DAY + user)
        for user in range(users)
        for place, name in enumerate("books" if first else "films" for first in drawn[user])
    ]


def test_both_models_rank_the_same_targets_of_the_same_people(tmp_path: Path) -> None:
    rows = events()
    merged = make_dataset(tmp_path / "all", rows, PrepareOptions(split="loo"))
    films = make_dataset(tmp_path / "films", rows, PrepareOptions(split="loo", only_domains=("films",)))
    place = merged.domain_index("films")
    transfer.check_same_targets(merged, films, place)
    config = RunConfig(
        batching=BatchingConfig(rows=8, row_length=32, max_length=14),
        model=RecommenderConfig(dim=8, layers=1, attention_window=14),
        train=TrainConfig(epochs=1.0, evaluate_every=0.5, patience=0, metric="macro/mrr"),
        logging=LoggingConfig(tensorboard=False),
        hardware=MeshConfig(1),
    )
    study = transfer.Study(config, tmp_path / "runs", (0, 1))
    _, together = study.chosen(merged, (1.0,))
    factor, apart = study.chosen(films, (1.0, 2.0))
    assert factor in {1.0, 2.0}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"all-1", "films-1", "films-2"}
    for one, like in zip(together, apart, strict=True):
        ours = transfer.of_domain(one, place, like)
        names = merged.users()["raw"].gather(one.user[one.domain == place]).to_list()
        assert names == films.users()["raw"].gather(ours.user).to_list()
        np.testing.assert_array_equal(ours.rank, one.rank[one.domain == place])
        np.testing.assert_array_equal(ours.question, like.question)


def test_other_targets_are_refused(tmp_path: Path) -> None:
    rows = events()
    merged = make_dataset(tmp_path / "all", rows, PrepareOptions(split="loo-mixed"))
    films = make_dataset(
        tmp_path / "films", [row for row in rows if row[2] == "films"], PrepareOptions(split="loo-mixed")
    )
    with pytest.raises(SystemExit, match="other test targets"):
        transfer.check_same_targets(merged, films, merged.domain_index("films"))
