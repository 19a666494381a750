"""A written memory that is read and written chunk by chunk: the gated delta rule."""

from mdrec_kernels.delta_memory_scan.api import delta_memory_scan

__all__ = ["delta_memory_scan"]
