"""Attention within the segments of packed rows: softmax or pointwise (HSTU), with relative position and time bias."""

from mdrec_kernels.packed_attention.api import packed_attention
from mdrec_kernels.packed_attention.bias import time_bucket
from mdrec_kernels.packed_attention.plan import Tiling

__all__ = ["Tiling", "packed_attention", "time_bucket"]
