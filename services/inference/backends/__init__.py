"""Execution engines behind one protocol: ONNX Runtime, torch, TensorRT."""
