"""Feed-forward experts of several widths on rows sorted by expert: exact, at the cost of the rows that there are."""

from mdrec_kernels.grouped_ffn.api import grouped_ffn
from mdrec_kernels.grouped_ffn.blocks import Tiling
from mdrec_kernels.grouped_ffn.experts import Experts
from mdrec_kernels.grouped_ffn.routing import Order, combine, sort_by_expert, take

__all__ = ["Experts", "Order", "Tiling", "combine", "grouped_ffn", "sort_by_expert", "take"]
