"""The `mdrec` command."""
