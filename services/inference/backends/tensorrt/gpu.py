"""What a GPU is to this package: an architecture, memory by address, a stream, copies.

`cuda` has the real one. Everything above asks only for this, so that the slots' own work (which
rows go where, what is padded, what is copied) can be run and held to account without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

_CODE = re.compile(r"SM(\d+)(\d)")


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """A GPU's compute capability."""

    major: int
    minor: int

    @classmethod
    def parse(cls, code: str) -> Self:
        """Reads `SM90`; raises `ValueError` on anything else."""
        match = _CODE.fullmatch(code)
        if match is None:
            raise ValueError(f"{code!r} is not an architecture")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return self.code

    @property
    def code(self) -> str:
        """`SM90`."""
        return f"SM{self.major}{self.minor}"


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU as the driver describes it."""

    name: str
    architecture: Architecture
    total_bytes: int


class Gpu(Protocol):
    """A GPU, and one stream on it: what is enqueued happens in order.

    Used by one thread at a time; `activate` makes it the calling thread's. Errors are
    `BackendFailed`, but for an allocation that does not fit, which is `OutOfDeviceMemory`.
    """

    @property
    def facts(self) -> GpuFacts:
        """What it is."""

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def activate(self) -> None:
        """Makes it the calling thread's."""

    def free_bytes(self) -> int:
        """How much memory is left."""

    def allocate(self, size_bytes: int) -> int:
        """Zeroed memory of the device, aligned for anything, kept until `close`; its address."""

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Memory of the host that the device reads and writes by itself; kept until `close`."""

    def to_device(self, address: int, values: NDArray[Any]) -> None:
        """Enqueues a copy from pinned memory."""

    def to_host(self, values: NDArray[Any], address: int) -> None:
        """Enqueues a copy to pinned memory."""

    def copy_rows(self, target: int, source: int, rows: Rows) -> None:
        """Enqueues a copy of the beginnings of rows, within the device."""

    def synchronize(self) -> None:
        """Waits until everything that was enqueued has happened."""

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Records what a function enqueues; the result enqueues all of it at once."""

    def close(self) -> None:
        """Frees everything that was taken through it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in memory, of which the first bytes count."""

    count: int
    pitch_bytes: int
    width_bytes: int


class OutOfDeviceMemory(Exception):
    """An allocation did not fit."""

    def __init__(self, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(f"{wanted_bytes} bytes were asked for, {free_bytes} are free")
