"""Batches of several users, and objectives worked out over any number of devices as the training step does it."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mdrec_jax.parallel.collectives import Spread
from mdrec_jax.parallel.mesh import DATA, MeshConfig, by_row, make_mesh
from mdrec_jax.types import Batch
from tests.models.make import pack, random_sequences

DEVICES = Spread(DATA)
LENGTHS = [[5, 7, 3], [9, 1, 12], [4, 4], [], [6, 2, 8], [10, 3], [7], [2, 11, 5, 3]]
"""Lengths of the segments of each row."""
USERS = [[0, 1, 2], [3, 4, 0], [5, 5], [], [6, 7, 8], [9, 10], [11], [12, 13, 14, 15]]
"""User 0 stands in two rows, user 5 in two segments of one."""


def make_batch(seed: int = 0) -> Batch:
    """Eight rows, the fourth of them empty."""
    sequences = iter(random_sequences(seed, [n for row in LENGTHS for n in row]))
    batch = pack([[next(sequences) for _ in row] for row in LENGTHS])
    users = np.full_like(batch.segment_user, -1)
    for row, numbers in enumerate(USERS):
        users[row, : len(numbers)] = numbers
    return dataclasses.replace(batch, segment_user=users)


def spread(f: Callable[..., jax.Array], *arguments: Any, devices: int = 1) -> tuple[jax.Array, Any]:
    """The sum over devices of f of their own rows, and its gradient with respect to the first argument."""
    mesh = make_mesh(MeshConfig(devices))
    return _compiled(f, mesh, len(arguments))(*jax.device_put(arguments, by_row(mesh)))


@cache
def _compiled(f: Callable[..., jax.Array], mesh: Mesh, arguments: int) -> Callable[..., Any]:
    def local(first: Any, *others: Any) -> Any:
        value, gradient = jax.value_and_grad(f)(first, *others)
        return jax.lax.psum(value, DATA), gradient

    rows = jax.P(DATA)
    out = (jax.P(), rows)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(rows,) * arguments, out_specs=out, check_vma=False))
