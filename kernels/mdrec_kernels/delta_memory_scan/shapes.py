"""Real shapes of `delta_memory_scan`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass

from mdrec_kernels.roofline import Work


@dataclass(frozen=True)
class Shape:
    """Rows [R, T], keys of width K, values of width V."""

    name: str
    R: int
    T: int
    K: int
    V: int
    chunk: int


SHAPES = (
    Shape("ml1m", R=16, T=1024, K=64, V=64, chunk=64),
    Shape("ml1m-wide", R=16, T=1024, K=128, V=128, chunk=64),
)

USERS = Shape("users", R=256, T=512, K=128, V=128, chunk=64)
"""131,072 tokens, what a chip is to be filled with; compiled, not run on a CPU."""


def forward_work(shape: Shape, itemsize: int) -> Work:
    """q, k, value and the outputs once, and the states in and out; four products with the state."""
    tokens = shape.R * shape.T
    streams = 2 * tokens * (shape.K + shape.V) * itemsize
    flops = 4.0 * tokens * shape.K * (shape.K + shape.V)
    return Work(flops, streams + 2 * shape.R * shape.K * shape.V * 4)


def backward_work(shape: Shape, itemsize: int) -> Work:
    """Inputs and outputs' gradient in, inputs' gradients out; the states' three arrays; scores once more."""
    tokens = shape.R * shape.T
    streams = tokens * (4 * shape.K + 3 * shape.V) * itemsize
    flops = 4.0 * tokens * shape.K * (3 * shape.K + 2 * shape.V)
    return Work(flops, streams + 3 * shape.R * shape.K * shape.V * 4)
