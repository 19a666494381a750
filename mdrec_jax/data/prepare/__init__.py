"""From a raw log to a dataset on disk."""
