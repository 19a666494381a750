"""A written memory that is read and written chunk by chunk: erase-add slots, or the gated delta rule."""

from mdrec_kernels.slot_memory_scan.api import slot_memory_scan

__all__ = ["slot_memory_scan"]
