"""BSARec against its formula: a Fourier transform of each prefix."""

import jax
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.models.bsarec import BsarecConfig, low_pass
from tests.models.make import built, pack, random_sequences, relative_error, states

CONFIG = BsarecConfig(dim=8, layers=2, heads=2, attention_window=6, cutoff=3, init_scale=0.5, embedding_scale=3.0)
BATCH = pack([random_sequences(0, [9, 5, 1]), random_sequences(1, [4])])


def low(prefix: np.ndarray, window: int, cutoff: int) -> np.ndarray:
    """The low frequencies of the last `window` rows, zeros before the first, at the last one."""
    padded = np.zeros((window, prefix.shape[1]))
    last = prefix[-window:]
    padded[window - len(last) :] = last
    waves = np.fft.rfft(padded, axis=0)
    waves[cutoff // 2 + 1 :] = 0
    return np.fft.irfft(waves, n=window, axis=0)[-1]


@pytest.mark.parametrize(("window", "cutoff"), [(6, 0), (6, 3), (6, 5), (6, 6), (7, 7), (50, 5), (1, 1)])
def test_the_weights_are_the_last_row_of_a_truncated_transform(window: int, cutoff: int) -> None:
    values = np.random.default_rng(0).standard_normal((window, 2))
    weighted = low_pass(window, cutoff)[::-1] @ values
    np.testing.assert_allclose(weighted, low(values, window, cutoff), atol=1e-6)


def norm(x: np.ndarray, layer: dict) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def linear(x: np.ndarray, layer: dict) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attend(x: np.ndarray, layer: dict) -> np.ndarray:
    """The last `attention_window` events, two heads, of each event of a sequence."""
    parts = np.split(linear(x, layer["qkv"]), 3, axis=-1)
    q, k, v = (part.reshape(len(x), CONFIG.heads, -1) for part in parts)
    scores = np.einsum("thk,shk->hts", q, k) / np.sqrt(q.shape[-1])
    back = np.arange(len(x))[:, None] - np.arange(len(x))
    scores = np.where((back >= 0) & (back < CONFIG.attention_window), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear(np.einsum("hts,shk->thk", weights, v).reshape(len(x), -1), layer["out"])


def block(x: np.ndarray, layer: dict) -> np.ndarray:
    lows = np.stack([low(x[: n + 1], CONFIG.attention_window, CONFIG.cutoff) for n in range(len(x))])
    filtered = norm(x + lows + layer["filter"]["beta"] ** 2 * (x - lows), layer["filter"]["norm"])
    attended = norm(x + attend(x, layer["attention"]), layer["mixed_norm"])
    x = CONFIG.filter_share * filtered + (1 - CONFIG.filter_share) * attended
    return norm(x + linear(gelu(linear(x, layer["ffn"]["up"])), layer["ffn"]["down"]), layer["ffn_norm"])


def test_states_equal_the_formula_on_every_prefix() -> None:
    model, params = built(CONFIG)
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.dense)
    rng = np.random.default_rng(2)
    dense["blocks"]["filter"]["beta"] = rng.standard_normal((CONFIG.layers, CONFIG.dim))
    params.dense["blocks"]["filter"]["beta"] = jax.numpy.asarray(dense["blocks"]["filter"]["beta"], "float32")
    table = np.asarray(params.tables["item"], np.float64)
    expected = np.zeros((*BATCH.item.shape, CONFIG.dim))
    for row, segments in enumerate(BATCH.segment):
        for number in range(1, segments.max() + 1):
            columns = np.flatnonzero(segments == number)
            place = np.minimum(np.arange(len(columns)), CONFIG.attention_window - 1)
            x = table[BATCH.item[row, columns]] * CONFIG.embedding_scale + dense["inputs"]["position"][place]
            x = norm(x, dense["norm"])
            for n in range(CONFIG.layers):
                x = block(x, jax.tree.map(lambda leaf, n=n: leaf[n], dense["blocks"]))
            expected[row, columns] = x
    real = np.asarray(BATCH.segment) > 0
    assert relative_error(np.asarray(states(model, params, BATCH))[real], expected[real]) < 1e-5


def test_dropout_takes_part_in_training_alone() -> None:
    model, params = built(CONFIG)
    assert not np.allclose(
        states(model, params, BATCH), states(model, params, BATCH, train=True, key=jax.random.key(0))
    )


@pytest.mark.parametrize(("field", "value"), [("heads", 3), ("cutoff", 51), ("filter_share", 1.1), ("cutoff", -1)])
def test_values_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        BsarecConfig(**{field: value})
