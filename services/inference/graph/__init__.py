"""Graphs: written from weights, compiled once per machine, run by ONNX Runtime."""
