"""The backends of a node, the preferred first; a further one is one more line."""

from __future__ import annotations

from services.inference.backends.backend import Backend, BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.torch.backend import TorchBackend


def make_backends(settings: BackendSettings) -> tuple[Backend, ...]:
    """All that this build of the node knows; whether they can run here, they are asked later."""
    return (
        OnnxRuntimeBackend(settings),
        TorchBackend(settings),
    )
