"""A GPU by CUDA's driver interface: the one module that imports `cuda.bindings`.

The driver is all that a machine must have; torch is not asked for. The device's primary context is
used, which TensorRT uses as well, so that addresses and streams mean the same to both.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.backends.backend import (
    BackendFailed,
    BackendLost,
    BackendUnavailable,
    Obstacle,
)
from services.inference.backends.tensorrt.gpu import (
    Architecture,
    GpuFacts,
    OutOfDeviceMemory,
    Rows,
)

_BACKEND = "tensorrt"
_NAME_BYTES = 256
# After these the context answers every call with the same: nothing here can go on.
_LOST = {
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
}


class CudaGpu:
    """The first GPU that the driver shows (CUDA_VISIBLE_DEVICES says which that is)."""

    def __init__(self, driver: Any, device: Any) -> None:
        self._driver = driver
        self._context = self._call("cuDevicePrimaryCtxRetain", device)
        self.activate()
        self.facts = read_facts(driver, device)
        flag = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._call("cuStreamCreate", int(flag))
        # Whoever loses a model in the making loses the last reference, and frees nothing by hand.
        self._taken = _Taken(device, self._context, self._stream)
        self._free = weakref.finalize(self, self._taken.free, driver)
        self._free.atexit = False

    def __repr__(self) -> str:
        return f"<CudaGpu {self.facts.name} {self.facts.architecture}>"

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def activate(self) -> None:
        """Makes the context the calling thread's."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """What the driver says is free."""
        free, _total = self._call("cuMemGetInfo")
        return int(free)

    def allocate(self, size_bytes: int) -> int:
        """By cuMemAlloc, whose addresses are multiples of 256."""
        code, address = self._driver.cuMemAlloc(size_bytes)
        if code == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise OutOfDeviceMemory(size_bytes, self.free_bytes())
        self._check("cuMemAlloc", code)
        self._taken.allocated.append(int(address))
        self._call("cuMemsetD8Async", address, 0, size_bytes, self._stream)
        return int(address)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """By cuMemAllocHost."""
        address = int(self._call("cuMemAllocHost", size_bytes))
        self._taken.pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def to_device(self, address: int, values: NDArray[Any]) -> None:
        """Asynchronously."""
        source = values.ctypes.data
        self._call("cuMemcpyHtoDAsync", address, source, values.nbytes, self._stream)

    def to_host(self, values: NDArray[Any], address: int) -> None:
        """Asynchronously."""
        target = values.ctypes.data
        self._call("cuMemcpyDtoHAsync", target, address, values.nbytes, self._stream)

    def copy_rows(self, target: int, source: int, rows: Rows) -> None:
        """One copy in two dimensions."""
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.dstDevice = source, target
        copy.srcPitch = copy.dstPitch = rows.pitch_bytes
        copy.WidthInBytes, copy.Height = rows.width_bytes, rows.count
        self._call("cuMemcpy2DAsync", copy, self._stream)

    def synchronize(self) -> None:
        """Waits for the stream, and learns of errors of what ran on it."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of what the function enqueues."""
        # Other threads of the process may allocate meanwhile; only ours is held to the rules.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._driver.cuStreamEndCapture(self._stream)  # the stream is of use again
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        program = self._call("cuGraphInstantiate", graph, 0)
        self._call("cuGraphDestroy", graph)
        self._taken.graphs.append(program)
        return lambda: self._call("cuGraphLaunch", program, self._stream)

    def close(self) -> None:
        """Frees graphs, memory and stream, and lets go of the context; once."""
        self._free()

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            code, *values = getattr(self._driver, name)(*arguments)
        except RuntimeError as error:  # a driver that is too old for the function
            raise BackendFailed(f"CUDA: {name}: {error}") from error
        self._check(name, code)
        return values[0] if len(values) == 1 else tuple(values)

    def _check(self, name: str, code: Any) -> None:
        if code == self._driver.CUresult.CUDA_SUCCESS:
            return
        kind = BackendLost if code.name in _LOST else BackendFailed
        raise kind(f"CUDA: {name}: {code.name}")


@dataclass(slots=True)
class _Taken:
    """What was taken of a device."""

    device: Any
    context: Any
    stream: Any
    allocated: list[int] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    graphs: list[Any] = field(default_factory=list)

    def free(self, driver: Any) -> None:
        """Gives it back. What a device that is lost says to it changes nothing any more."""
        driver.cuCtxSetCurrent(self.context)
        for program in self.graphs:
            driver.cuGraphExecDestroy(program)
        for address in self.allocated:
            driver.cuMemFree(address)
        for address in self.pinned:
            driver.cuMemFreeHost(address)
        driver.cuStreamDestroy(self.stream)
        driver.cuDevicePrimaryCtxRelease(self.device)


def open_gpu() -> CudaGpu:
    """The first GPU of this machine; raises `BackendUnavailable` if there is none to be used."""
    driver, device = _first_device()
    return CudaGpu(driver, device)


def find_gpu() -> GpuFacts:
    """What the first GPU is, without taking anything of it; raises like `open_gpu`."""
    return read_facts(*_first_device())


def read_facts(driver: Any, device: Any) -> GpuFacts:
    """Asks the driver; it takes no context."""
    attributes = driver.CUdevice_attribute

    def ask(name: str, *arguments: Any) -> Any:
        code, value = getattr(driver, name)(*arguments)
        if code != driver.CUresult.CUDA_SUCCESS:
            raise _no_gpu(f"{name}: {code.name}")
        return value

    major = attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    name = ask("cuDeviceGetName", _NAME_BYTES, device).split(b"\0")[0].decode()
    architecture = Architecture(
        int(ask("cuDeviceGetAttribute", major, device)),
        int(ask("cuDeviceGetAttribute", minor, device)),
    )
    return GpuFacts(name, architecture, int(ask("cuDeviceTotalMem", device)))


def _first_device() -> tuple[Any, Any]:
    driver = _load_driver()
    try:
        (code,) = driver.cuInit(0)
        if code == driver.CUresult.CUDA_SUCCESS:
            code, device = driver.cuDeviceGet(0)
    except RuntimeError as error:  # the bindings' way to say that there is no driver
        raise _no_gpu(str(error)) from error
    if code != driver.CUresult.CUDA_SUCCESS:
        raise _no_gpu(code.name)
    return driver, device


def _load_driver() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise BackendUnavailable(
            _BACKEND,
            Obstacle.MISSING_LIBRARY,
            f"cuda.bindings cannot be imported ({error}); install it: "
            "pip install 'ringmesh[tensorrt]'",
        ) from error


def _no_gpu(why: str) -> BackendUnavailable:
    return BackendUnavailable(_BACKEND, Obstacle.NO_GPU, why)
