"""Compiling for TPUs with the real TPU compiler and no TPU.

The compiler comes with the `tpu` extra (libtpu); where it is missing, tests that ask for it skip. It needs variables in
the environment before JAX starts, which `tests/conftest.py` sets. The process's own devices stay its CPU's.
"""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from mdrec_kernels import dispatch

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "7x": "tpu7x:2x2x1"}
"""A small slice of each generation; programs for one chip are compiled for its first."""

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "ragged-all-to-all")


@dataclass(frozen=True)
class Compiled:
    """A program for TPUs.

    Args:
        executable: as from `jax.stages.Lowered.compile`.
        temporaries: bytes beside inputs and outputs, on one chip.
        aliased: bytes of outputs that take the place of donated inputs.
        collectives: how often each kind stands in the program.
        kernels: how many Pallas kernels stand in the program.
    """

    executable: Any
    temporaries: int
    aliased: int
    collectives: Counter[str]
    kernels: int


def compile_for(chip: str, f: Callable, *arguments: Any, donate: Sequence[int] = ()) -> Compiled:
    """f compiled for one chip of a generation of `CHIPS`.

    Args:
        arguments: pytrees of arrays or `jax.ShapeDtypeStruct`; only shapes and types count.
        donate: the arguments that are donated.
    """
    return _compile(f, _placed(arguments, SingleDeviceSharding(_devices(CHIPS[chip])[0])), donate)


def compile_spmd(
    f: Callable,
    *arguments: tuple[Any, PartitionSpec],
    axes: dict[str, int],
    topology: str = "v5e:4x4",
    donate: Sequence[int] = (),
) -> Compiled:
    """f(mesh, ...) compiled for all chips of a slice.

    Args:
        f: called with the mesh, then the arguments; wraps itself in `jax.shard_map` if it likes.
        arguments: each a pytree, and how its arrays are spread over the mesh.
        axes: name and length of the mesh's axes; their product is the number of chips.
    """
    mesh = spmd_mesh(axes, topology)
    placed = tuple(_placed(tree, NamedSharding(mesh, spec)) for tree, spec in arguments)
    return _compile(lambda *a: f(mesh, *a), placed, donate)


def spmd_mesh(axes: dict[str, int], topology: str = "v5e:4x4") -> Mesh:
    """A mesh over all chips of a slice that is not there."""
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=_devices(topology)
    )


def _compile(f: Callable, arguments: tuple, donate: Sequence[int]) -> Compiled:
    with dispatch.compiling_for("tpu"):
        executable = jax.jit(f, donate_argnums=tuple(donate)).lower(*arguments).compile()
    memory, text = executable.memory_analysis(), executable.as_text()
    assert memory is not None
    assert text is not None
    found = re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text)
    return Compiled(
        executable=executable,
        temporaries=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        collectives=Counter(found),
        kernels=text.count('custom_call_target="tpu_custom_call"'),
    )


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


@cache
def _devices(topology: str) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs the TPU compiler: install the tpu extra")
    if os.environ.get("TPU_SKIP_MDS_QUERY") != "1":
        pytest.skip("needs TPU_SKIP_MDS_QUERY=1 in the environment before JAX starts")
    return tuple(topologies.get_topology_desc(topology, platform="tpu").devices)
