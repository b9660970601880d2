"""What only TensorRT-RTX has, of what this package uses; as types, like `api`.

It builds for GPUs that are not there, says of an engine whether it would run, and compiles kernels
on the GPU at first use, which its runtime cache keeps.
"""

from __future__ import annotations

from typing import Any, Protocol

from services.inference.backends.tensorrt import api


class IRuntimeCache(Protocol):
    """Kernels that were compiled on the GPU."""

    def serialize(self) -> api.IHostMemory: ...

    def deserialize(self, blob: bytes) -> bool: ...


class IRuntimeConfig(api.IRuntimeConfig, Protocol):
    """How contexts are made."""

    cuda_graph_strategy: Any
    dynamic_shapes_kernel_specialization_strategy: Any

    def create_runtime_cache(self) -> IRuntimeCache: ...

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool: ...


class IBuilderConfig(api.IBuilderConfig, Protocol):
    """How an engine is built."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class Runtime(api.Runtime, Protocol):
    """Loads engines."""

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]: ...
