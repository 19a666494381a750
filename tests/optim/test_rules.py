"""Every rule of a table against its formula, on the touched rows' gradients and on the whole table's alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels import embedding_rows

from mdrec_jax.optim import optimiser
from mdrec_jax.optim.optimiser import BETA1, EPSILON, OptimConfig, RowGradients, TableConfig
from mdrec_jax.optim.schedule import ScheduleConfig
from mdrec_jax.types import Params

RATE, DECAY, BETAS = 0.1, 0.3, (BETA1, 0.9)
TOUCHED = [[2, 5, 7], [5, 2, 5], [9, 3, 3], [5, 9, 2]]
CHANCE = np.random.default_rng(0)
TABLE = CHANCE.standard_normal((12, 8)).astype(np.float32)
GRADIENTS = CHANCE.standard_normal((len(TOUCHED), *TABLE.shape)).astype(np.float32)


def expected(rule: str) -> np.ndarray:
    """The table after the steps, in float64; the rate rises to its full height over the first two."""
    table, count = TABLE.astype(np.float64), np.zeros((len(TABLE), 1))
    mean, square, total = np.zeros_like(table), np.zeros_like(table), np.full((len(TABLE), 1), 0.1)
    for number, rows in enumerate(TOUCHED):
        for row in set(rows):
            g = GRADIENTS[number, row].astype(np.float64)
            count[row] += 1
            total[row] += (g**2).mean()
            mean[row] = BETAS[0] * mean[row] + (1 - BETAS[0]) * g
            square[row] = BETAS[1] * square[row] + (1 - BETAS[1]) * g**2
            n = count[row]
            change = {
                "sgd": g,
                "adagrad": g / (np.sqrt(total[row]) + EPSILON),
                "adam": mean[row] / (1 - BETAS[0] ** n) / (np.sqrt(square[row] / (1 - BETAS[1] ** n)) + EPSILON),
            }[rule]
            table[row] -= RATE * min(1, (number + 1) / 2) * (change + DECAY * table[row])
    return table


@pytest.mark.parametrize("whole", [False, True], ids=["rows", "whole table"])
@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
def test_a_rule_moves_the_rows_that_a_step_touched(rule: Any, whole: bool) -> None:
    config = OptimConfig(BETAS[1], DECAY, table=TableConfig(rule, RATE), schedule=ScheduleConfig(warmup_steps=2))
    params = Params({}, {"item": jnp.asarray(TABLE)}, {})
    slots = optimiser.init(config, params, params)
    for number, rows in enumerate(TOUCHED):
        ids = embedding_rows.lookup(params.tables["item"], {"x": jnp.asarray(rows, jnp.int32)})[1]
        at = jnp.asarray(GRADIENTS[number])
        touched = jnp.isin(jnp.arange(len(TABLE)), jnp.asarray(rows))[:, None]
        values = jnp.where(ids[:, None] < len(TABLE), at[jnp.minimum(ids, len(TABLE) - 1)], 0.0)
        gradient = jnp.where(touched, at, 0.0) if whole else RowGradients(ids, values)
        params, slots = optimiser.apply(config, params, params, slots, {}, {"item": gradient}, jnp.int32(number), 10)
    np.testing.assert_allclose(params.tables["item"], expected(rule), rtol=2e-5, atol=1e-6)
    assert jax.tree.leaves(params.dense) == []
