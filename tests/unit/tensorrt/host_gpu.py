"""A GPU that is none: the same addresses, copies and recordings, in the memory of this process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.backends.backend import BackendFailed
from services.inference.backends.tensorrt.gpu import (
    Architecture,
    GpuFacts,
    OutOfDeviceMemory,
    Rows,
)


class HostGpu:
    """Work is done when it is enqueued; what is recorded is done again at each launch."""

    facts = GpuFacts("host", Architecture(8, 9), 1 << 30)
    stream = 7

    def __init__(self, capacity_bytes: int = 1 << 30, *, can_capture: bool = True) -> None:
        self._left = capacity_bytes
        self._can_capture = can_capture
        self._kept: list[Any] = []
        self.launches = 0
        self.is_closed = False

    def activate(self) -> None:
        assert not self.is_closed

    def free_bytes(self) -> int:
        return self._left

    def allocate(self, size_bytes: int) -> int:
        if size_bytes > self._left:
            raise OutOfDeviceMemory(size_bytes, self._left)
        self._left -= size_bytes
        return int(self.pinned(size_bytes).ctypes.data)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        memory = np.zeros(size_bytes + 256, np.uint8)
        self._kept.append(memory)
        begin = -memory.ctypes.data % 256
        return memory[begin : begin + size_bytes]

    def to_device(self, address: int, values: NDArray[Any]) -> None:
        assert values.flags.c_contiguous
        ctypes.memmove(address, values.ctypes.data, values.nbytes)

    def to_host(self, values: NDArray[Any], address: int) -> None:
        assert values.flags.c_contiguous
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def copy_rows(self, target: int, source: int, rows: Rows) -> None:
        for row in range(rows.count):
            offset = row * rows.pitch_bytes
            ctypes.memmove(target + offset, source + offset, rows.width_bytes)

    def synchronize(self) -> None:
        pass

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        if not self._can_capture:
            raise BackendFailed("CUDA: cuStreamBeginCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

        def launch() -> None:
            self.launches += 1
            enqueue()

        return launch

    def close(self) -> None:
        self.is_closed = True
