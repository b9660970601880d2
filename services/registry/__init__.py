"""The model registry: what may be served, and what should be."""
