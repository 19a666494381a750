"""Real shapes of `linear_xent`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """N tokens of width D against V rows, of which the first two and all past `items` may never be chosen.

    `negatives` is the number S of a sampled loss; 0 where the whole catalogue is scored. `queries` of an evaluation
    batch leave out `history` items each.
    """

    name: str
    N: int
    V: int
    D: int
    items: int
    groups: int = 1
    negatives: int = 0
    queries: int = 1024
    history: int = 50


SHAPES = (
    Shape("quickstart", N=4_096, V=4_104, D=64, items=4_100),
    Shape("beauty", N=8_192, V=12_288, D=64, items=12_103, history=50),
    Shape("beauty-128", N=8_192, V=12_288, D=128, items=12_103, history=50),
    Shape("ml-1m", N=8_192, V=3_720, D=64, items=3_708, history=200),
    Shape("two-domains", N=4_096, V=24_960, D=128, items=24_700, groups=2, negatives=512),
    Shape("catalogue-100k", N=2_048, V=100_224, D=64, items=100_002),
    Shape("catalogue-500k", N=8_192, V=500_352, D=64, items=500_002, negatives=256),
)

MILLION = Shape("million", N=8_192, V=1_000_003, D=256, items=1_000_003)
"""Compiled, not run: its scores would take 33 GB."""
