import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.errors import ConfigError
from mdrec_jax.optim.schedule import ScheduleConfig, learning_rate_factor


def factors(config: ScheduleConfig, steps: list[int], total_steps: int = 100) -> list[float]:
    return [float(learning_rate_factor(config, jnp.int32(step), total_steps)) for step in steps]


def test_the_warm_up_rises_to_one_and_stays() -> None:
    np.testing.assert_allclose(factors(ScheduleConfig(warmup_steps=4), [0, 1, 3, 4, 90]), [0.25, 0.5, 1, 1, 1])
    assert factors(ScheduleConfig(warmup_steps=1), [0, 1]) == factors(ScheduleConfig(), [0, 1]) == [1, 1]


def test_a_run_that_is_over_with_its_warm_up_has_nowhere_to_fall() -> None:
    np.testing.assert_allclose(factors(ScheduleConfig("linear", warmup_steps=4), [1, 3, 4, 5], 4), [0.5, 1, 1, 0])


def test_a_fall_starts_after_the_warm_up_and_ends_at_0() -> None:
    linear = ScheduleConfig("linear", warmup_steps=2)
    np.testing.assert_allclose(factors(linear, [2, 7, 12, 40], 12), [1, 0.5, 0, 0])
    cosine = ScheduleConfig("cosine")
    np.testing.assert_allclose(factors(cosine, [0, 5, 10, 40], 10), [1, 0.5, 0, 0], atol=1e-6)


def test_a_field_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError):
        ScheduleConfig(warmup_steps=-1)
