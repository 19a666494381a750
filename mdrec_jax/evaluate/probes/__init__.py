"""What is inside a model: what can be read out of its codes, and where its routers sent events."""
