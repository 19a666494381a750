"""What the kernels for TPUs share: when they are interpreted, room in VMEM, padding to whole lanes."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, DTypeLike, Shaped
from mdrec_kernels import dispatch

LANES = 128
"""Columns of a vector register, and of a tile of memory."""

VMEM_BUDGET = 48 * 2**20
"""Bytes that a kernel may ask for: three quarters of the smallest TensorCore's VMEM (64 MiB, v5p and 7x)."""

_interpreted = jax.make_user_context(False)


def interpreted() -> AbstractContextManager[None]:
    """Inside, kernels for TPUs that are asked for by name run in the Pallas interpreter, on any platform."""
    return _interpreted(True)


def interpret() -> bool:
    """Whether a kernel is to be interpreted. A form calls it while it is traced and hands the answer down.

    Raises:
        NotImplementedError: the platform is no TPU, and interpreting was not asked for.
    """
    if _interpreted.value:
        return True
    if dispatch.platform() != "tpu":
        raise NotImplementedError(f"a kernel for TPUs, and the platform is {dispatch.platform()}")
    return False


def round_up(n: int, multiple: int) -> int:
    """The least multiple that is at least n."""
    return -(-n // multiple) * multiple


def pad(x: Shaped[Array, "..."], axis: int, multiple: int = LANES) -> Shaped[Array, "..."]:
    """Zeros at the end of an axis, up to a multiple of `multiple`; by default to whole lanes."""
    missing = -x.shape[axis] % multiple
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths) if missing else x


def vmem_bytes(shape: Sequence[int], dtype: DTypeLike) -> int:
    """Bytes of a buffer in VMEM: its last two axes fill whole tiles of (8, 128) words of 32 bits."""
    itemsize = np.dtype(dtype).itemsize
    *outer, rows, columns = (1, 1, *shape)
    tile_rows = 8 * max(1, 4 // itemsize)
    return int(np.prod(outer, dtype=np.int64)) * round_up(rows, tile_rows) * round_up(columns, LANES) * itemsize


def compiler_params(
    operation: str,
    semantics: Sequence[Literal["parallel", "arbitrary"]],
    *,
    blocks: Iterable[tuple[Sequence[int], DTypeLike]],
    scratch: Iterable[tuple[Sequence[int], DTypeLike]],
) -> pltpu.CompilerParams:
    """The parameters of a kernel whose buffers fit into VMEM.

    Args:
        operation: its name, for messages.
        semantics: "parallel" or "arbitrary" for each axis of the grid.
        blocks: shape and type of each input's and output's block; there are two of each, one in flight.
        scratch: the same of everything else that is live at once: scratch buffers and large values of the body.

    Raises:
        NotImplementedError: the buffers are larger than `VMEM_BUDGET`. The compiler would take half a minute to say so.
    """
    asked = 2 * sum(vmem_bytes(*block) for block in blocks) + sum(vmem_bytes(*buffer) for buffer in scratch)
    if asked > VMEM_BUDGET:
        mib = f"{asked / 2**20:.1f} MiB of VMEM, and {VMEM_BUDGET / 2**20:.0f} MiB are to be had"
        raise NotImplementedError(f"{operation}: blocks of these shapes take {mib}")
    # Half as much again for what the compiler spills, and never less than its own default.
    limit = max(16 * 2**20, min(round_up(asked * 3 // 2, 2**20), VMEM_BUDGET + VMEM_BUDGET // 6))
    return pltpu.CompilerParams(dimension_semantics=tuple(semantics), vmem_limit_bytes=limit)
