"""Encoders: models that turn texts into vectors, behind the batcher."""
