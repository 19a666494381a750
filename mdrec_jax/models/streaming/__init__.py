"""A model that is read one event at a time: what is kept of a user, and the step that reads an event and ranks."""
