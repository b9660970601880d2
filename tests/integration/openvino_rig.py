"""What the tests on the real OpenVINO share: the backend, the one it is compared with, the CPU."""

from __future__ import annotations

import importlib.util

import pytest

from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.openvino_backend import OpenVinoBackend, load_library

if importlib.util.find_spec("openvino") is None:
    pytest.skip("the extra `openvino` is not installed", allow_module_level=True)

BACKEND = OpenVinoBackend(BackendSettings(threads=2))
OTHER = OnnxRuntimeBackend(BackendSettings(threads=2))
CAPABILITIES = load_library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
