"""The least time that work can take on a chip, and which share of it a measurement reaches.

A chip is two numbers: how fast it multiplies, and how fast its memory answers. Work is two numbers too: floating point
operations, and bytes that have to cross the memory's bus. The floor is the larger of both quotients (Williams et al.
2009, "Roofline").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import DTypeLike


@dataclass(frozen=True)
class Work:
    """What an operation cannot do without.

    Args:
        flops: floating point operations; a multiply and an add are two.
        bytes: read from and written to the chip's main memory.
    """

    flops: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Chip:
    """A chip's peaks.

    Args:
        name: as people call it.
        flops_per_second: dense matrix products, by the name of their type.
        bytes_per_second: of its main memory.
        source: where the numbers come from.
    """

    name: str
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    source: str

    def floor(self, work: Work, dtype: DTypeLike = jnp.bfloat16) -> float:
        """Seconds that the work takes at least, its products taken in `dtype`.

        Raises:
            ValueError: no peak is known for the type.
        """
        name = np.dtype(dtype).name
        if name not in self.flops_per_second:
            raise ValueError(f"no peak of {self.name} in {name} is known, only in {', '.join(self.flops_per_second)}")
        return max(work.flops / self.flops_per_second[name], work.bytes / self.bytes_per_second)

    def share(self, work: Work, seconds: float, dtype: DTypeLike = jnp.bfloat16) -> float:
        """The floor over the time that was measured: 1 is the limit."""
        return self.floor(work, dtype) / seconds


TPUS = {
    "TPU v5e": ("v5e", pltpu.ChipVersion.TPU_V5E),
    "TPU v5 lite": ("v5e", pltpu.ChipVersion.TPU_V5E),
    "TPU v5": ("v5p", pltpu.ChipVersion.TPU_V5P),
    "TPU v5p": ("v5p", pltpu.ChipVersion.TPU_V5P),
    "TPU v6e": ("v6e", pltpu.ChipVersion.TPU_V6E),
    "TPU v6 lite": ("v6e", pltpu.ChipVersion.TPU_V6E),
    "TPU7x": ("7x", pltpu.ChipVersion.TPU_7X),
}
"""By device kind."""

_HOPPER = {"bfloat16": 989.4e12, "float16": 989.4e12, "float32": 494.7e12}
"""Without sparsity; float32 as TF32, which is what XLA takes by default."""

GPUS = {
    "NVIDIA H100 80GB HBM3": Chip("H100 SXM", _HOPPER, 3.35e12, "NVIDIA H100 Tensor Core GPU data sheet, SXM5"),
    "NVIDIA H200": Chip("H200 SXM", _HOPPER, 4.8e12, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
}
"""By device kind."""


def tpu_chip(name: str) -> Chip:
    """A TPU by its name ("v5e", "v5p", "v6e", "7x"), whole: all its TensorCores.

    The numbers are JAX's own. Products of float32 run in bfloat16 unless a higher precision is asked for.
    """
    version = dict(TPUS.values())[name]
    info, cores = pltpu.get_tpu_info_for_chip(version, 1), version.num_physical_tensor_cores_per_chip
    peak = float(info.bf16_ops_per_second * cores)
    return Chip(
        name, {"bfloat16": peak, "float32": peak}, float(info.mem_bw_bytes_per_second * cores), "jax, get_tpu_info"
    )


def this_chip() -> Chip | None:
    """The chip of JAX's first device; None for one whose numbers are not known (`cpu_chip`: a CPU's are measured)."""
    device = jax.devices()[0]
    if device.device_kind in TPUS:
        return tpu_chip(TPUS[device.device_kind][0])
    return GPUS.get(device.device_kind)


@dataclass(frozen=True)
class Probe:
    """A piece of work whose best time says what a machine can do."""

    name: str
    f: Callable[[jax.Array], jax.Array]
    make: Callable[[], tuple[jax.Array]]
    work: Work


CPU_PROBES = (
    Probe("product", lambda a: a @ a, lambda: (jnp.ones((1536, 1536)),), Work(2 * 1536.0**3, 0)),
    Probe("copy", lambda a: -a, lambda: (jnp.ones(2**24),), Work(0, 2 * 4 * 2.0**24)),
)
"""A large square product, and a copy of an array that no cache holds."""


def cpu_chip(product_seconds: float, copy_seconds: float) -> Chip:
    """A CPU by the best times of `CPU_PROBES`."""
    product, copy = CPU_PROBES
    flops = {"float32": product.work.flops / product_seconds}
    return Chip("CPU", flops, copy.work.bytes / copy_seconds, "measured on this machine")
