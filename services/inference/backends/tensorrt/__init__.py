"""TensorRT as a backend: engines built from portable models, cached, shared, and run on a GPU."""
