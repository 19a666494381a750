"""What a model that reads the time of its query is told before there is a query."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.batching.histories import history_batches
from mdrec_jax.evaluate.scorer import make_scorer
from mdrec_jax.models.api import make_model
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.serve import recommend as recommending
from mdrec_jax.serve.recommend import Choice, recommend
from mdrec_jax.serve.users import read_users
from tests.evaluate.worlds import two_domains


def test_a_model_that_reads_the_querys_time_is_told_that_of_the_last_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, told = two_domains(tmp_path / "world"), []
    monkeypatch.setattr(
        recommending,
        "history_batches",
        lambda *given, **named: told.append(named["time"]) or history_batches(*given, **named),
    )
    (tmp_path / "users.txt").write_text("u3\nnobody\nu1\n")
    users, batching = read_users(tmp_path / "users.txt", world), BatchingConfig(rows=4, row_length=24, max_length=10)
    for visible in (True, False):
        model = make_model(HstuConfig(dim=8, layers=1, attention_window=10, query_time_visible=visible), world.spec)
        recommend(make_scorer(model, model.init(jax.random.key(0)), batching), world, users, 0, Choice(k=3))
    raw, events = world.users()["raw"].to_list(), np.asarray(world.time)
    ends = [
        world.sequence_offsets[np.flatnonzero(np.asarray(world.sequence_user) == raw.index(u))[0] + 1]
        for u in ("u3", "u1")
    ]
    np.testing.assert_array_equal(told[0], events[np.asarray(ends) - 1])
    assert told[1] is None
