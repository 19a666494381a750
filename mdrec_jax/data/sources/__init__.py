"""One adapter for each public format, and one for any table of events."""
