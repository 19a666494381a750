"""What a date is read as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdrec_jax.data.dataset import Dataset
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.models.api import make_model
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.models.items import DAY, Dates
from mdrec_jax.types import DatasetSpec
from tests.data.logs import ORIGIN, TEST, TRAIN, dataset_of

SPEC = DatasetSpec(num_items=9, num_domains=1, num_events=1, has_time=True, last_time=25 * DAY)


def read(days: list[float]) -> np.ndarray:
    """The embedding of dates so many days behind the first event, knots ten days apart."""
    dates = Dates(jax.random.key(0), 4, SPEC, days=10.0, scale=1.0)
    time = jnp.asarray([[round(day * DAY) for day in days]], jnp.int32)
    return np.asarray(dates(time, jnp.float32))[0]


def test_a_date_lies_between_its_knots_in_proportion() -> None:
    first, between, second = read([10.0, 13.0, 20.0])
    np.testing.assert_allclose(between, 0.7 * first + 0.3 * second, rtol=1e-5)
    assert np.abs(first - second).min() > 0.01


def test_later_than_any_training_event_is_read_as_the_last_one() -> None:
    last, later, much_later = read([25.0, 26.0, 9000.0])
    np.testing.assert_array_equal(last, later)
    np.testing.assert_array_equal(last, much_later)


def test_every_knot_is_reached_by_training_events() -> None:
    dates = Dates(jax.random.key(0), 4, SPEC, days=10.0, scale=1.0)
    assert dates.knots.get_value().shape == (4, 4)  # 0, 10, 20 and 30, the last for what lies behind 20


def test_the_last_time_is_that_of_a_training_event() -> None:
    dataset: Dataset = dataset_of([[TRAIN, TRAIN, TEST]])
    assert dataset.spec.last_time == int(dataset.time[1]) - ORIGIN
    assert dataset_of([[TRAIN, TRAIN]], has_time=False).spec.last_time == 0


def test_data_without_times_are_refused() -> None:
    spec = DatasetSpec(num_items=9, num_domains=1, num_events=1, has_time=False)
    with pytest.raises(InputError, match=r"model\.date_days"):
        make_model(RecommenderConfig(date_days=3.0), spec)


@pytest.mark.parametrize("days", [-1.0, float("inf"), float("nan")])
def test_no_such_distance(days: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.date_days"):
        RecommenderConfig(date_days=days)
