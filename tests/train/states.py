"""A small state of a run without a run: what is written and read needs no training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.parallel.mesh import MeshConfig, make_mesh
from mdrec_jax.train.runs.checkpoint import Checkpoints, Progress
from mdrec_jax.train.state import TrainState, init_state
from mdrec_jax.types import ParameterFacts, Params


def state_at(step: int, rows: int = 6) -> TrainState:
    """Every parameter equals `step`."""
    value = float(step)
    params = Params(
        {"kernel": jnp.full((4, 5), value)}, {"items": jnp.full((rows, 4), value)}, {"mean": jnp.full((2, 5), value)}
    )
    facts = Params(
        {"kernel": ParameterFacts(("embed", "mlp"), "shared", "matrix", (4, 5))},
        {"items": ParameterFacts(("table", "embed"), "shared", "table", (rows, 4))},
        {"mean": ParameterFacts(("domain", "embed"), "private", "statistic", (2, 5))},
    )
    return init_state(params, facts, OptimConfig(), make_mesh(MeshConfig(data=1)))


def write(folder: Path, steps: range, *, best: int = -1, keep: int = 2) -> None:
    """A checkpoint a step, of which `best` is the best by validation from there on."""
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), step, Progress(best_value=1.0, best_step=best if step >= best else -1))


def written(state: TrainState) -> int:
    """The step that a state of `state_at` was made for; all its parameters agree."""
    values = {float(value) for leaf in jax.tree.leaves(state.params) for value in np.unique(np.asarray(leaf))}
    assert len(values) == 1
    return int(values.pop())
