"""Data: raw logs to a prepared dataset to packed batches."""
