"""Real shapes of `embedding_rows`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A table [V, D] and the number of ids that one step names."""

    name: str
    V: int
    D: int
    ids: int


SHAPES = (
    Shape("quickstart", V=4_104, D=64, ids=4_352),
    Shape("beauty", V=12_288, D=64, ids=16_640),
    Shape("catalogue-20k", V=20_000, D=64, ids=25_856),
    Shape("catalogue-2m", V=2_000_000, D=64, ids=25_856),
    Shape("catalogue-10m", V=10_000_000, D=16, ids=25_856),
)
"""ids of the last three: 100 packed rows of 128 inputs and as many targets, and 256 shared negatives."""
