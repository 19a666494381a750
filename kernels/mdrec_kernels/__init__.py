"""Memory-bounded operations for sequence models over large catalogues."""
