"""torch as a backend: decoders and encoders from their weights, on a GPU or, for reference, a CPU.

The only package that imports torch, and `backend` the only module of it that others import: the
rest is loaded when a node first asks whether torch can run here.
"""
