"""The Open Inference Protocol on a node."""
