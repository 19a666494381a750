"""Sequential recommendation over many domains."""
