"""The device mesh and the few shardings that a run uses.

The mesh is explicit and always has its axes, of size one where they are not needed, so that one device and many run
the same program. Rows of a batch lie along `data`; parameters are replicated.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from mdrec_jax.errors import ConfigError

DATA = "data"


@dataclass(frozen=True)
class MeshConfig:
    """Which devices a run uses. It never changes what is learned, so it is no part of a run's identity.

    Args:
        data: devices along the `data` axis; 0 takes every device that JAX sees.
    """

    data: int = 0

    def __post_init__(self) -> None:
        if self.data < 0:
            raise ConfigError("not a number of devices", column="hardware.data", found=self.data, expected=">= 0")


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of `config` over the first devices that JAX sees."""
    devices = jax.devices()
    wanted = config.data or len(devices)
    if wanted > len(devices):
        raise ConfigError(
            "more devices asked for than there are",
            column="hardware.data",
            found=wanted,
            expected=f"at most {len(devices)} ({devices[0].platform})",
        )
    return Mesh(np.asarray(devices[:wanted]), (DATA,), axis_types=(AxisType.Explicit,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, jax.P())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices of the `data` axis."""
    return NamedSharding(mesh, jax.P(DATA))


def rows_for(mesh: Mesh, rows: int, micro_batches: int = 1) -> int:
    """Rows of a batch, rounded up so that every device has as many in each micro-batch (the rows added are empty)."""
    unit = mesh.shape[DATA] * micro_batches
    return -(-rows // unit) * unit
