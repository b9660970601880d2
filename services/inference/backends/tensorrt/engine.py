"""An engine that is loaded on a GPU, and its contexts: shapes and addresses in, work enqueued.

A context is one way of running the engine. A CUDA graph holds on to the context that it was
recorded with, so each graph has a context of its own; they never run at the same time, and share
one working memory. `Engine` and `Context` are what slots and graphs ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mesh.logs import get_logger
from services.inference.backends.backend import (
    BackendFailed,
    BackendUnavailable,
    GraphTensor,
    Obstacle,
)
from services.inference.backends.tensorrt import api, rtx_api
from services.inference.backends.tensorrt.gpu import Gpu, OutOfDeviceMemory
from services.inference.backends.tensorrt.library import BACKEND, Flavour, Library
from services.inference.backends.tensorrt.shapes import Shape

KERNELS_FILE = "kernels.cache"

_log = get_logger(__name__)


class Context(Protocol):
    """A way of running an engine."""

    def bind(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Sets the inputs' shapes and every tensor's address."""

    def output_shape(self, name: str) -> Shape:
        """What an output has, given the shapes that are bound."""

    def enqueue(self) -> None:
        """Enqueues a run on the GPU's stream."""


class Engine(Protocol):
    """A loaded engine."""

    @property
    def records_graphs(self) -> bool:
        """Whether it makes CUDA graphs of its runs by itself."""

    @property
    def memory_bytes(self) -> int:
        """Its weights and its working memory."""

    def open_context(self, profile: int) -> Context:
        """A context for one of the engine's profiles."""

    def save_kernels(self) -> None:
        """Keeps what was compiled on this machine for the next time."""

    def close(self) -> None:
        """Frees it and its contexts, but for memory that is the GPU's to free."""


class TensorRtEngine:
    """A plan, loaded."""

    def __init__(self, library: Library, gpu: Gpu, plan: bytes, kernels: Path) -> None:
        self._library = library
        self._gpu = gpu
        self._kernels = kernels
        self._runtime = library.make_runtime()
        self._engine = _load(library, self._runtime, plan)
        self._config = library.make_context_config(self._engine)
        self._cache = _open_cache(library, self._config, kernels)
        working_bytes = self._engine.device_memory_size_v2
        self.memory_bytes = len(plan) + working_bytes
        self._working = allocate(gpu, max(working_bytes, 1), "the engine's working memory")
        self._working_bytes = working_bytes
        self._contexts: list[TensorRtContext] = []

    def __repr__(self) -> str:
        return f"<TensorRtEngine {self._library!r} contexts={len(self._contexts)}>"

    @property
    def records_graphs(self) -> bool:
        """TensorRT-RTX does."""
        return self._library.flavour is Flavour.RTX

    @property
    def tensors(self) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
        """Inputs and outputs."""
        return read_tensors(self._library, self._engine)

    def open_context(self, profile: int) -> TensorRtContext:
        """A context on the shared working memory."""
        made = self._engine.create_execution_context(self._config)
        if made is None:
            raise self._library.failure(Obstacle.OUT_OF_MEMORY, "no context could be made")
        if self._working_bytes:
            made.set_device_memory(self._working, self._working_bytes)
        if not made.set_optimization_profile_async(profile, self._gpu.stream):
            raise self._library.failure(Obstacle.BUILD_FAILED, f"the plan lacks profile {profile}")
        self._gpu.synchronize()
        context = TensorRtContext(self._library, made, self._gpu.stream)
        self._contexts.append(context)
        return context

    def save_kernels(self) -> None:
        """Writes the cache of kernels beside the plan."""
        if self._cache is None:
            return
        unfinished = self._kernels.with_suffix(".unfinished")
        try:
            unfinished.write_bytes(bytes(memoryview(self._cache.serialize())))
            unfinished.replace(self._kernels)
        except OSError as error:  # the next start compiles them again
            _log.warning("kernels could not be kept", error=str(error))

    def close(self) -> None:
        """The library frees an object with its last reference, contexts before their engine."""
        self.save_kernels()
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self._cache = None
        del self._config, self._engine, self._runtime


class TensorRtContext:
    """One context of an engine."""

    def __init__(self, library: Library, context: api.IExecutionContext, stream: int) -> None:
        self._library = library
        self._context: api.IExecutionContext | None = context
        self._stream = stream

    def bind(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Shapes, then addresses; what the library refuses is a failed run."""
        context = self._open()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failed(f"{name} may not have the shape {shape}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"{name} may not lie at {address:#x}")
        missing = self._infer(context)
        if missing:
            raise self._failed(f"{', '.join(missing)}: not specified")

    def output_shape(self, name: str) -> Shape:
        """As inferred from the inputs'."""
        return tuple(self._open().get_tensor_shape(name))

    def enqueue(self) -> None:
        """Enqueues a run."""
        if not self._open().execute_async_v3(self._stream):
            raise self._failed("the run was refused")

    def close(self) -> None:
        """Lets go of it; the bindings free it with the last reference."""
        self._context = None

    def _open(self) -> api.IExecutionContext:
        if self._context is None:
            raise BackendFailed("TensorRT: the engine is closed")
        return self._context

    def _infer(self, context: api.IExecutionContext) -> list[str]:
        try:
            return context.infer_shapes()
        except RuntimeError as error:
            raise self._failed(str(error)) from error

    def _failed(self, what: str) -> BackendFailed:
        return BackendFailed(self._library.failure(Obstacle.BUILD_FAILED, what).detail)


def read_tensors(
    library: Library, engine: api.ICudaEngine
) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
    """The inputs and the outputs of an engine."""
    inputs: list[GraphTensor] = []
    outputs: list[GraphTensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        tensor = GraphTensor(name, library.datatype(engine, name), shape)
        (inputs if library.is_input(engine, name) else outputs).append(tensor)
    return tuple(inputs), tuple(outputs)


def allocate(gpu: Gpu, size_bytes: int, what: str) -> int:
    """Device memory; raises `BackendUnavailable` with figures if it does not fit."""
    try:
        return gpu.allocate(size_bytes)
    except OutOfDeviceMemory as error:
        detail = f"{what}: {error}"
        raise BackendUnavailable(BACKEND, Obstacle.OUT_OF_MEMORY, detail) from error


def captured(gpu: Gpu, enqueue: Callable[[], None]) -> Callable[[], None]:
    """The same work as one CUDA graph, or as it was where it cannot be recorded."""
    try:
        return gpu.capture(enqueue)
    except BackendFailed as error:
        _log.warning("runs are not recorded as a CUDA graph", reason=error.message)
        return enqueue


def _load(library: Library, runtime: api.Runtime, plan: bytes) -> api.ICudaEngine:
    library.check_plan(runtime, plan)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise library.failure(Obstacle.PLAN_FOR_ANOTHER_GPU, "the plan cannot be loaded")
    return engine


def _open_cache(
    library: Library, config: api.IRuntimeConfig, kernels: Path
) -> rtx_api.IRuntimeCache | None:
    try:
        saved = kernels.read_bytes()
    except FileNotFoundError:
        saved = None
    return library.make_kernel_cache(config, saved)
