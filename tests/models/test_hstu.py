"""HSTU against its formula, and the flag that shows or hides the query's time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdrec_kernels.packed_attention import time_bucket

from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.models.api import make_model
from mdrec_jax.models.hstu import HstuConfig
from mdrec_jax.types import Batch
from tests.models.make import HSTU, SPEC, built, pack, random_sequences, relative_error, states

CONFIG = replace(HSTU, query_time_visible=True)
BATCH = pack([random_sequences(0, [6, 9])])


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def normed(x: np.ndarray) -> np.ndarray:
    x = x - x.mean()
    return x / np.sqrt((x * x).mean() + 1e-6)


def obvious_states(config: HstuConfig, params, batch: Batch) -> np.ndarray:
    """Equations 2 to 4 of arXiv 2402.17152, a token, a head and a pair at a time, in float64."""
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.dense)
    table = np.asarray(params.tables["item"], np.float64)
    width = config.dim // config.heads
    out = np.zeros((*batch.item.shape, config.dim))
    for r in range(batch.item.shape[0]):
        for segment in range(1, batch.segment[r].max() + 1):
            columns = np.flatnonzero(batch.segment[r] == segment)
            x = table[batch.item[r, columns]] + dense["inputs"]["position"][: len(columns)]
            for layer in range(config.layers):
                block = jax.tree.map(lambda p, layer=layer: p[layer], dense["blocks"])
                parts = silu(np.stack([normed(row) for row in x]) @ block["uvqk"]["kernel"])
                u, v, q, k = np.split(parts, 4, axis=1)
                mixed = np.zeros_like(x)
                for i, t in enumerate(columns):
                    for j, s in enumerate(columns[: i + 1]):
                        own = batch.time[r, t]
                        query_time = max(own, batch.target_time[r, t]) if config.query_time_visible else own
                        bucket = int(time_bucket(jnp.asarray(query_time - batch.time[r, s]), config.time_buckets))
                        bias = block["position_bias"][i - j] + block["time_bias"][bucket]
                        for head in range(config.heads):
                            here = slice(head * width, (head + 1) * width)
                            weight = silu(q[i, here] @ k[j, here] + bias) / config.attention_window
                            mixed[i, here] += weight * v[j, here]
                gated = np.stack([normed(row) for row in mixed]) * u
                x = x + gated @ block["out"]["kernel"] + block["out"]["bias"]
            final = dense["final_norm"]
            out[r, columns] = np.stack([normed(row) for row in x]) * final["scale"] + final["bias"]
    return out


@pytest.mark.parametrize("visible", [True, False])
def test_states_equal_the_obvious_formula(visible: bool) -> None:
    config = replace(CONFIG, query_time_visible=visible)
    model, params = built(config)
    real = BATCH.segment > 0
    found = np.asarray(states(model, params, BATCH))[real]
    assert relative_error(found, obvious_states(config, params, BATCH)[real]) < 1e-4


def with_target_time(shift: int) -> Batch:
    known = BATCH.target_time > 0
    return replace(BATCH, target_time=np.where(known, BATCH.target_time + shift, 0).astype(np.int32))


@pytest.mark.parametrize("visible", [True, False])
def test_the_querys_time_is_seen_only_when_the_flag_says_so(visible: bool) -> None:
    model, params = built(replace(CONFIG, query_time_visible=visible))
    now, later = (states(model, params, with_target_time(shift)) for shift in (0, 10_000_000))
    assert np.array_equal(now, later) == (not visible)


def test_no_model_without_the_flag_reads_the_target_at_all() -> None:
    model, params = built(HSTU)
    blind = replace(
        BATCH,
        target=np.zeros_like(BATCH.target),
        target_time=np.zeros_like(BATCH.target),
        target_domain=np.zeros_like(BATCH.target),
        weight=np.zeros_like(BATCH.weight),
    )
    np.testing.assert_array_equal(states(model, params, blind), states(model, params, BATCH))


def test_time_matters_through_the_bias_alone() -> None:
    slower = replace(BATCH, time=BATCH.time * 7, target_time=BATCH.target_time * 7)
    for config, sees_time in ((HSTU, True), (replace(HSTU, time_bias=False), False)):
        model, params = built(config)
        assert (not np.array_equal(states(model, params, BATCH), states(model, params, slower))) == sees_time


def test_data_without_times_is_refused_unless_the_time_bias_is_off() -> None:
    timeless = replace(SPEC, has_time=False)
    with pytest.raises(InputError, match=r"model\.time_bias"):
        make_model(HSTU, timeless)
    make_model(replace(HSTU, time_bias=False), timeless)


def test_a_visible_query_time_without_a_time_bias_is_refused() -> None:
    with pytest.raises(ConfigError, match="query_time_visible"):
        HstuConfig(time_bias=False, query_time_visible=True)
