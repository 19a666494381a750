"""Real shapes of `memory_bank_read`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """T tokens of width D read a local bank of M slots and a global one of G (0: none), each behind a gate."""

    name: str
    T: int
    M: int
    G: int
    D: int


SHAPES = (
    Shape("small", T=8_192, M=256, G=128, D=64),
    Shape("paper-8k", T=8_192, M=1_024, G=512, D=256),
)

LARGE = Shape("paper-131k", T=131_072, M=1_024, G=512, D=256)
"""Compiled, not run on a CPU: 256 users of 512 events; with all scores at once 768 MiB."""
