"""Tokens go to their experts and come back, and so do gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mdrec_kernels.grouped_ffn import combine, grouped_ffn, sort_by_expert, take

from tests.kernels.ffn_cases import distance, make_experts, make_rows

TOKENS, CHOICES, WIDTH, EXPERTS = 30, 2, 8, 5


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_copy_has_a_place_and_copies_stay_in_order(data) -> None:
    number = st.integers(-1, EXPERTS)
    choice = st.lists(number, min_size=TOKENS * CHOICES, max_size=TOKENS * CHOICES)
    expert = np.asarray(data.draw(choice), np.int32).reshape(TOKENS, CHOICES)
    order = jax.jit(sort_by_expert, static_argnums=1)(jnp.asarray(expert), EXPERTS)
    key = np.where((expert < 0) | (expert >= EXPERTS), EXPERTS, expert).ravel()
    np.testing.assert_array_equal(order.source, np.argsort(key, kind="stable"))
    np.testing.assert_array_equal(order.place.ravel()[order.source], np.arange(key.size))
    np.testing.assert_array_equal(order.counts, np.bincount(key, minlength=EXPERTS + 1)[:EXPERTS])


def layer(x, weight, classes, expert):
    order = sort_by_expert(expert, EXPERTS)
    return combine(grouped_ffn(take(x, order), order.counts, classes), order, weight)


def formula(x, weight, classes, expert):
    """Every expert on every token, and the chosen ones picked."""
    every = []
    for experts in classes:
        inner = jax.nn.silu(jnp.einsum("td,edf->etf", x, experts.gate)) * jnp.einsum("td,edf->etf", x, experts.up)
        every.append(jnp.einsum("etf,efd->etd", inner, experts.down))
    chosen = jnp.concatenate(every)[jnp.clip(expert, 0, EXPERTS - 1), jnp.arange(TOKENS)[:, None]]
    valid = (expert >= 0) & (expert < EXPERTS)
    return jnp.sum(jnp.where(valid, weight, 0)[:, :, None] * chosen, axis=1)


def test_a_layer_of_experts_and_its_gradients_are_the_formula() -> None:
    rng = np.random.default_rng(0)
    expert = jnp.asarray(rng.integers(-1, EXPERTS, (TOKENS, CHOICES)), jnp.int32)
    arguments = (
        make_rows(TOKENS, WIDTH),
        jnp.asarray(rng.random((TOKENS, CHOICES)), jnp.float32),
        make_experts(WIDTH, [(2, 12), (3, 20)], True),
    )

    def loss(f, *arguments):
        out = f(*arguments, expert)
        return jnp.sum(out * jnp.cos(out)), out

    got, expected = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: loss(f, *a), argnums=(0, 1, 2), has_aux=True))(*arguments)
        for f in (layer, formula)
    )
    assert distance(got, expected) < 2e-6


def test_a_token_without_an_expert_gets_zeros() -> None:
    expert = jnp.asarray([[-1, EXPERTS]] * TOKENS, jnp.int32)
    out = layer(make_rows(TOKENS, WIDTH), jnp.ones((TOKENS, CHOICES)), make_experts(WIDTH, [(5, 12)], True), expert)
    assert not np.any(np.asarray(out))


def test_sums_are_taken_in_float32() -> None:
    order = sort_by_expert(jnp.zeros((1, 300), jnp.int32), 1)
    y = jnp.ones((300, 1), jnp.bfloat16)
    assert combine(y, order, jnp.ones((1, 300), jnp.bfloat16))[0, 0] == 300
    assert jax.grad(lambda x: take(x, order).astype(jnp.float32).sum())(y[:1])[0, 0] == 300
