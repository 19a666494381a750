"""What a run leaves on disk, and when two runs may be compared."""
