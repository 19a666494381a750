"""Models: pure functions over parameters, rows and packed batches."""
