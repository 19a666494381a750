"""An embedding of an event's date, so that a model can know what was bought when.

Catalogues move: an item is bought for a while and then no more. The embedding is piecewise linear between learned
knots at equal distances from the data set's first event on; a date behind the last training event is read as that
event's, so nothing is asked of a knot that was never trained.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from mdrec_jax.errors import InputError
from mdrec_jax.models import init
from mdrec_jax.models.pure import parameter
from mdrec_jax.types import DatasetSpec

DAY = 24 * 3600


class Dates(nnx.Module):
    """time [R, T] in seconds since the data set's first event -> [R, T, D].

    Args:
        days: between two knots.
        scale: standard deviation of the initial knots.
    """

    def __init__(self, key: jax.Array, dim: int, spec: DatasetSpec, *, days: float, scale: float) -> None:
        self.seconds, self.last = days * DAY, max(spec.last_time, 0)
        length = int(self.last // self.seconds) + 2
        knots = init.embedding(key, length, dim, scale=scale)
        # What is in fashion when is a data set's own.
        self.knots = parameter(knots, "date", "embed", group="embedding", scope="private")

    def __call__(self, time: Int32[Array, "R T"], dtype: jnp.dtype) -> Float[Array, "R T D"]:
        place = jnp.clip(time, 0, self.last).astype(jnp.float32) / self.seconds
        left = jnp.floor(place)
        share, left = (place - left).astype(dtype)[..., None], left.astype(jnp.int32)
        knots = self.knots.get_value().astype(dtype)
        return knots[left] * (1 - share) + knots[left + 1] * share


def check_dates(days: float, spec: DatasetSpec) -> None:
    """
    Raises:
        InputError: dates are wanted and the data have no times.
    """
    if days and not spec.has_time:
        raise InputError(
            "an embedding of dates needs times, and this data set has none",
            column="model.date_days",
            found=days,
            expected="0, or a data set with times",
        )
