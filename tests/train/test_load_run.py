"""What `load_run` returns is asked as it is, on whatever mesh the run was trained."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.models.api import encode_batch
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.layers.experts import ExpertsConfig
from mdrec_jax.models.layers.learned_memory import LearnedMemoryConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.fit import run_record
from mdrec_jax.train.runs.checkpoint import Checkpoints, Progress
from mdrec_jax.train.runs.run_folder import RunFolder, start
from mdrec_jax.train.setup import Setup
from mdrec_jax.train.state import shapes
from mdrec_jax.train.trained import load_run, scorer_of
from mdrec_jax.types import Rows

SASREC = RecommenderConfig(dim=16, layers=1, attention_window=24)
MODELS: dict[str, Any] = {
    "sasrec": SASREC,
    "memory and experts": replace(
        SASREC, learned_memory=LearnedMemoryConfig(local=4, shared=3), experts=ExpertsConfig(per_width=1)
    ),
}


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_encodes_with_the_parameters_that_were_loaded(
    name: str, devices: int, small_run: RunConfig, small_world: Path, tmp_path: Path
) -> None:
    config = replace(small_run, model=MODELS[name], hardware=MeshConfig(devices))
    dataset, folder = open_dataset(small_world), RunFolder(tmp_path)
    setup = Setup.of(config, dataset)
    state = setup.initial_state()
    start(folder, run_record(setup, None), shapes(state))
    with Checkpoints(folder.checkpoints, 1) as checkpoints:
        checkpoints.save(state, 0, Progress())
    run = load_run(tmp_path)
    batch, model = run.setup.batches[0], run.setup.model
    rows = {n: Rows(run.params.tables[n], ids) for n, ids in model.row_ids(batch, {}).items()}
    found = model.encode(run.params.dense, rows, batch, key=None, train=False).h
    assert found.shape == (*batch.item.shape, 16)
    expected = jax.jit(lambda params: encode_batch(model, params, batch).h)(jax.device_get(state.params))
    real = batch.segment > 0
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(expected)[real], rtol=1e-4, atol=1e-5)
    for leaf in jax.tree.leaves(scorer_of(run.setup, run.params).params):
        assert len(leaf.sharding.device_set) == devices
