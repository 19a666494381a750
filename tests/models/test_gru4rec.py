"""GRU4Rec against its formula, an event at a time."""

import jax
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.gru4rec import Gru4RecConfig
from tests.models.make import built, pack, random_sequences, relative_error, states

CONFIG = Gru4RecConfig(dim=8, layers=2, init_scale=0.5, embedding_scale=3.0)
BATCH = pack([random_sequences(0, [6, 9, 1]), random_sequences(1, [4])])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cell(layer: dict, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Cho et al. 2014 with the reset gate behind the state's product, one event."""
    given = np.split(x @ layer["input"]["kernel"] + layer["input"]["bias"], 3)
    state = np.split(h @ layer["state"], 3)
    reset, update = sigmoid(given[0] + state[0]), sigmoid(given[1] + state[1])
    return (1 - update) * np.tanh(given[2] + reset * (state[2] + layer["candidate_bias"])) + update * h


def test_states_equal_the_obvious_formula() -> None:
    model, params = built(CONFIG)
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.dense)
    layers = [jax.tree.map(lambda p, n=n: p[n], dense["blocks"]) for n in range(CONFIG.layers)]
    table = np.asarray(params.tables["item"], np.float64)
    expected = np.zeros((*BATCH.item.shape, CONFIG.dim))
    for row in range(BATCH.item.shape[0]):
        for segment in range(1, BATCH.segment[row].max() + 1):
            h = [np.zeros(CONFIG.dim)] * CONFIG.layers
            for column in np.flatnonzero(BATCH.segment[row] == segment):
                x = table[BATCH.item[row, column]] * CONFIG.embedding_scale
                for number, layer in enumerate(layers):
                    x = h[number] = cell(layer, x, h[number])
                expected[row, column] = x
    real = np.asarray(BATCH.segment) > 0
    assert relative_error(np.asarray(states(model, params, BATCH))[real], expected[real]) < 1e-5


def test_dropout_takes_part_in_training_alone() -> None:
    model, params = built(CONFIG)
    evaluated = states(model, params, BATCH)
    trained = states(model, params, BATCH, train=True, key=jax.random.key(0))
    assert not np.allclose(evaluated, trained)


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 0), ("layers", 0), ("residual_dropout", 1.0), ("init_scale", 0.0)]
)
def test_values_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Gru4RecConfig(**{field: value})
