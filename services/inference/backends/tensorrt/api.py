"""What this package uses of TensorRT, as types: both flavours offer exactly this much.

`tensorrt` and `tensorrt_rtx` come without type information. Their objects pass through the package
under these protocols, each named like the class that it stands for, so that the type checker
refuses a member that is not listed here; and a test holds every member listed here against the
classes of both libraries. What only TensorRT-RTX has is in `rtx_api`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class IHostMemory(Protocol):
    """A buffer of the library's."""

    @property
    def nbytes(self) -> int: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITensor(Protocol):
    """A tensor of a network."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...


class ILayer(Protocol):
    """A layer of a network."""

    @property
    def type(self) -> Any: ...


class INetworkDefinition(Protocol):
    """What an engine is built from."""

    @property
    def num_inputs(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    def get_input(self, index: int) -> ITensor: ...

    def get_layer(self, index: int) -> ILayer: ...


class IParserError(Protocol):
    """What the parser did not like. Named `ParserError` in the library."""

    def desc(self) -> str: ...


class OnnxParser(Protocol):
    """Reads an ONNX file into a network."""

    @property
    def num_errors(self) -> int: ...

    def get_error(self, index: int) -> IParserError: ...

    def parse_from_file(self, model: str) -> bool: ...


class IOptimizationProfile(Protocol):
    """The shapes that an engine is built for."""

    def set_shape(
        self,
        input: str,
        min: Sequence[int],
        opt: Sequence[int],
        max: Sequence[int],
    ) -> None: ...


class IBuilderConfig(Protocol):
    """How an engine is built."""

    profiling_verbosity: Any

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...

    def clear_flag(self, flag: Any) -> None: ...


class Builder(Protocol):
    """Builds engines."""

    def create_network(self, flags: int) -> INetworkDefinition: ...

    def create_builder_config(self) -> IBuilderConfig: ...

    def create_optimization_profile(self) -> IOptimizationProfile: ...

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...


class IRuntimeConfig(Protocol):
    """How contexts are made."""

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...


class IExecutionContext(Protocol):
    """One way of running an engine: a profile, shapes, addresses."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...

    def set_device_memory(self, memory: int, size: int) -> None: ...

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...

    def set_tensor_address(self, name: str, memory: int) -> bool: ...

    def infer_shapes(self) -> list[str]: ...

    def get_tensor_shape(self, name: str) -> Sequence[int]: ...

    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    """A loaded engine."""

    @property
    def num_io_tensors(self) -> int: ...

    @property
    def device_memory_size_v2(self) -> int: ...

    def get_tensor_name(self, index: int) -> str: ...

    def get_tensor_mode(self, name: str) -> Any: ...

    def get_tensor_dtype(self, name: str) -> Any: ...

    def get_tensor_shape(self, name: str) -> Sequence[int]: ...

    def create_runtime_config(self) -> IRuntimeConfig: ...

    def create_execution_context(
        self, runtime_config: IRuntimeConfig
    ) -> IExecutionContext | None: ...


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...
