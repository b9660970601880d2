"""Execution engines behind one protocol: ONNX Runtime, OpenVINO, torch, TensorRT."""
