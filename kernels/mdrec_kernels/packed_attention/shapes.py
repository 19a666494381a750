"""Real shapes of `packed_attention`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass

from mdrec_kernels.packed_attention.spec import Mode


@dataclass(frozen=True)
class Shape:
    """Packed rows [R, T, H, K] whose segments are `mean` long on average and `window` at most."""

    name: str
    R: int
    T: int
    H: int
    K: int
    mean: float
    window: int
    mode: Mode = "softmax"


SHAPES = (
    Shape("beauty", R=64, T=128, H=1, K=64, mean=8.9, window=50),
    Shape("quarter", R=64, T=128, H=1, K=64, mean=12.5, window=50),
    Shape("quarter-heads", R=32, T=256, H=2, K=32, mean=12.5, window=50),
    Shape("quarter-long", R=16, T=512, H=1, K=64, mean=50.0, window=200),
    Shape("ml1m", R=16, T=512, H=2, K=64, mean=120.0, window=200),
    Shape("ml1m-hstu", R=16, T=512, H=2, K=64, mean=120.0, window=200, mode="silu"),
)
"""quarter: the mean is a quarter of the longest."""
