"""From a dataset to packed batches: training windows and evaluation histories."""
