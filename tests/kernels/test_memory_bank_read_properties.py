"""`memory_bank_read`: what a token reads depends on itself and on the slots in use, and on nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdrec_kernels.memory_bank_read import Bank

from tests.kernels.bank_cases import draw, error, read, read_and_gradients

BLOCKED = pytest.mark.parametrize("form", ["xla", "pallas_tpu"])
few = settings(max_examples=2, deadline=None, derandomize=True)


@BLOCKED
@few
@given(
    T=st.integers(1, 300),
    slots=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    D=st.sampled_from([8, 33, 64, 128]),
    gate=st.sampled_from(["token", "channel", None]),
)
def test_odd_sizes(form: str, T: int, slots: list[int], D: int, gate) -> None:
    case = draw(T, tuple(slots), D, gate)
    expected = read_and_gradients(*case, "reference")
    for name, value in read_and_gradients(*case, form, rows=128).items():
        assert error(value, expected[name]) < 1e-5, name


@BLOCKED
@few
@given(place=st.integers(0, 299), seed=st.integers(0, 99))
def test_a_token_reads_the_same_at_any_place_beside_any_others(form: str, place: int, seed: int) -> None:
    q, banks, scale, _ = draw(T=1, gate="token")
    others, beside, _, _ = draw(T=300, gate="token", seed=seed)
    moved = tuple(
        Bank(one.key, one.value, other.gate.at[place].set(one.gate[0]), one.allowed)
        for one, other in zip(banks, beside, strict=True)
    )
    found = read(others.at[place].set(q[0]), moved, form, scale=scale, rows=128)[place]
    np.testing.assert_allclose(found, read(q, banks, "reference", scale=scale)[0], rtol=1e-5, atol=1e-6)


@BLOCKED
@few
@given(more=st.integers(1, 200))
def test_slots_that_are_not_in_use_change_nothing(form: str, more: int) -> None:
    q, banks, scale, weight = draw(T=50, slots=(40,), gate="token")
    (bank,) = banks
    padded = Bank(
        jnp.pad(bank.key, ((0, more), (0, 0)), constant_values=100.0),
        jnp.pad(bank.value, ((0, more), (0, 0)), constant_values=100.0),
        bank.gate,
        jnp.pad(bank.allowed, (0, more)),
    )
    expected = read_and_gradients(q, banks, scale, weight, form)
    found = read_and_gradients(q, (padded,), scale, weight, form)
    for name, value in expected.items():
        if name in ("key 0", "value 0"):
            assert not np.asarray(found[name][40:]).any()
            found[name] = found[name][:40]
        assert error(found[name], value) < 1e-5, name


@BLOCKED
@pytest.mark.parametrize("gate", ["token", "channel"])
def test_a_bank_with_no_slot_in_use_reads_zeros_and_no_gradient_is_nan(form: str, gate) -> None:
    q, banks, scale, weight = draw(T=20, slots=(10,), gate=gate)
    unused = (Bank(banks[0].key, banks[0].value, banks[0].gate, jnp.zeros(10, bool)),)
    for name, value in read_and_gradients(q, unused, scale, weight, form).items():
        assert not np.asarray(value).any(), name


@BLOCKED
@few
@given(power=st.integers(1, 8))
def test_huge_scores_pick_one_slot_and_stay_finite(form: str, power: int) -> None:
    q, banks, _, weight = draw(T=40, slots=(30,), gate="token")
    scale = jnp.float32(10.0**power)
    expected = read_and_gradients(q, banks, scale, weight, "reference", qk_norm=False)
    found = read_and_gradients(q, banks, scale, weight, form, qk_norm=False)
    assert error(found["out"], expected["out"]) < 1e-3
    assert all(np.isfinite(value).all() for value in found.values())


@BLOCKED
def test_no_tokens_and_zero_queries(form: str) -> None:
    _, banks, scale, _ = draw(T=5, gate=None)
    assert read(jnp.zeros((0, 64)), banks, form, scale=scale).shape == (0, 64)
    # A query of zeros finds all slots alike.
    found = read(jnp.zeros((3, 64)), banks[1:], form, scale=scale)
    np.testing.assert_allclose(found, np.tile(banks[1].value.mean(0), (3, 1)), rtol=1e-5, atol=1e-6)


@BLOCKED
def test_the_same_bits_every_time(form: str) -> None:
    case = draw()
    first, second = (read_and_gradients(*case, form, rows=128) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
