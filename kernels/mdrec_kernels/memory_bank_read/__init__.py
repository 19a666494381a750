"""Reads of learned memory banks: every token attends to the same slots, behind a gate for each bank."""

from mdrec_kernels.memory_bank_read.api import memory_bank_read
from mdrec_kernels.memory_bank_read.banks import Bank

__all__ = ["Bank", "memory_bank_read"]
