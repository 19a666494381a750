"""Cross entropy of inner products with a catalogue of any length, its sampled forms, and exact ranking by them."""

from mdrec_kernels.linear_xent.api import (
    linear_xent,
    linear_xent_sum,
    sampled_bce_sum,
    sampled_xent_sum,
    target_rank,
    top_k,
)
from mdrec_kernels.linear_xent.blocks import Blocks
from mdrec_kernels.linear_xent.sampled import binary_loss, gbce_beta, softmax_loss

__all__ = [
    "Blocks",
    "binary_loss",
    "gbce_beta",
    "linear_xent",
    "linear_xent_sum",
    "sampled_bce_sum",
    "sampled_xent_sum",
    "softmax_loss",
    "target_rank",
    "top_k",
]
