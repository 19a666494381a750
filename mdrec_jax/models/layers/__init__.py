"""The layers that models are made of: modules that own parameters, and plain functions on arrays."""
