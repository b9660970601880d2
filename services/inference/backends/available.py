"""The backends of a node, the preferred first; a further one is one more line."""

from __future__ import annotations

from services.inference.backends.backend import Backend, BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.openvino_backend import OpenVinoBackend
from services.inference.backends.tensorrt.backend import TensorRtBackend
from services.inference.backends.tensorrt.engine_cache import DerivedStore, EngineCache
from services.inference.backends.tensorrt.machine import ThisMachine
from services.inference.backends.torch.backend import TorchBackend


def make_backends(
    settings: BackendSettings, store: DerivedStore | None = None
) -> tuple[Backend, ...]:
    """All that this build of the node knows; whether they can run here, they are asked later.

    What one node compiles for a GPU it gives to the others through the store.
    """
    return (
        OnnxRuntimeBackend(settings),
        TensorRtBackend(ThisMachine(), EngineCache(store)),
        TorchBackend(settings),
        OpenVinoBackend(settings),
    )
