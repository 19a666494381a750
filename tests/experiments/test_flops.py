"""FLOPs: what loops, branches and a whole training step cost, against closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mdrec_jax.config import RunConfig, replace
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.data.dataset import open_dataset
from mdrec_jax.experiments.costs import counted, step_flops
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.train.setup import Setup

N = 64
X, W = jnp.ones((N, N)), jnp.ones((3, N, N))
PRODUCT = 2 * N**3


def power(x: jax.Array, times: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, times, lambda _, y: y @ x, x)


def stacked(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda y, one: (y @ one, None), x, w)[0]


def test_xla_itself_counts_a_loop_once() -> None:
    cost = jax.jit(stacked).lower(X, W).compile().cost_analysis()
    assert cost["flops"] == pytest.approx(PRODUCT, rel=0.01)


def test_a_loop_is_counted_as_often_as_it_runs() -> None:
    assert counted(stacked, X, W)(X, W) == pytest.approx(3 * PRODUCT, rel=0.01)
    count = counted(power, X, jnp.int32(0))
    for times in (0, 1, 5):
        assert count(X, jnp.int32(times)) == pytest.approx(times * PRODUCT, abs=0.01 * PRODUCT)


def test_loops_in_loops_and_compiled_functions_and_what_stands_beside_them() -> None:
    def nested(x: jax.Array, w: jax.Array, times: jax.Array) -> jax.Array:
        inner = jax.jit(jax.checkpoint(power))
        return jax.lax.scan(lambda y, one: (inner(y, times) @ one, None), x @ x, w)[0]

    count = counted(nested, X, W, jnp.int32(0))
    for times in (0, 4):
        assert count(X, W, jnp.int32(times)) == pytest.approx((1 + 3 * (1 + times)) * PRODUCT, rel=0.01)


def test_of_branches_with_loops_the_one_that_is_taken_counts() -> None:
    def branches(x: jax.Array, which: jax.Array) -> jax.Array:
        return jax.lax.switch(which, [lambda x: power(x, jnp.int32(4)), lambda x: power(x @ x, jnp.int32(7))], x)

    count = counted(branches, X, jnp.int32(0))
    for which, products in enumerate((4, 8)):
        assert count(X, jnp.int32(which)) == pytest.approx(products * PRODUCT, rel=0.01)


ROWS, T, D, F = 8, 32, 64, 256


def run_of(**model: object) -> RunConfig:
    sizes = {"dim": D, "layers": 2, "attention_window": T, "embedding_dropout": 0.0, "residual_dropout": 0.0}
    batching = BatchingConfig(rows=ROWS, row_length=T, max_length=T)
    changed = RecommenderConfig(**(sizes | model))
    return replace(RunConfig(), batching=batching, model=changed, hardware={"data": 1})


def test_a_step_of_two_layers_costs_what_its_products_say(small_world: Path) -> None:
    config, dataset = run_of(), open_dataset(small_world)
    setup = Setup.of(config, dataset)
    tokens = ROWS * T
    weights = 2 * (4 * D * D + 2 * D * F)  # of two layers: queries, keys, values, output; feed-forward
    scores = 2 * T * D * tokens  # one product of all pairs of a row
    logits = 2 * D * tokens * setup.initial_state().params.tables["item"].shape[0]
    # Forward and two gradients of every map; scores and their mixture, made again, and four gradients; three of logits.
    products = 3 * 2 * weights * tokens + 2 * 7 * scores + 3 * logits
    assert products < step_flops(config, dataset, batches=1) < 1.08 * products


@pytest.mark.slow
def test_a_scanned_stack_costs_what_an_unrolled_one_does(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(small_world)
    unrolled = step_flops(run_of(), dataset, batches=1)
    monkeypatch.setattr("mdrec_jax.models.layers.stack.SCAN_FROM_LAYERS", 1)
    scanned = step_flops(run_of(), dataset, batches=1)
    assert scanned == pytest.approx(unrolled, rel=0.02)
