"""Attention within the segments of packed rows: softmax or pointwise (HSTU), with relative position and time bias."""

from mdrec_kernels.packed_attention.api import packed_attention
from mdrec_kernels.packed_attention.bias import time_bucket

__all__ = ["packed_attention", "time_bucket"]
