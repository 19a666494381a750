"""Serving: whom a file names, what is recommended to them, and the states that new events bring up to date."""
