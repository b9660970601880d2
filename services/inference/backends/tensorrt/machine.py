"""What the backend asks of the machine that it runs on: identify, build, load.

One seam between deciding (which engine, for which shapes, in which cache) and doing, so that
everything above it runs without a GPU, against an engine of another make.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.inference.backends.backend import GraphTensor
from services.inference.backends.tensorrt import cuda
from services.inference.backends.tensorrt.build_process import BuildJob, BuildProcess
from services.inference.backends.tensorrt.engine import Engine, TensorRtEngine
from services.inference.backends.tensorrt.gpu import Architecture, Gpu
from services.inference.backends.tensorrt.library import Library, load_library


@dataclass(frozen=True, slots=True)
class Identity:
    """Which TensorRT runs on which GPU; an engine is for one of them and no other."""

    flavour: str
    version: str
    architecture: Architecture


class GraphEngine(Engine, Protocol):
    """An engine that says what goes in and what comes out."""

    @property
    def tensors(self) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
        """Inputs and outputs."""


class Build(Protocol):
    """One build."""

    def run(self, job: BuildJob) -> None:
        """Builds the plan; blocking."""

    def close(self) -> None:
        """Has it end, whether it has begun or not; from any thread."""


class Machine(Protocol):
    """A place where engines are built and run."""

    def identify(self) -> Identity:
        """What is here; raises `BackendUnavailable` with what is missing."""

    def open_gpu(self) -> Gpu:
        """The GPU, with a stream of its own."""

    def new_build(self) -> Build:
        """Something that builds one plan."""

    def load(self, plan: bytes, gpu: Gpu, kernels: Path) -> GraphEngine:
        """Loads a plan onto the GPU."""


class ThisMachine:
    """The real one."""

    def __init__(self) -> None:
        self._library: Library | None = None
        self._turn = threading.Lock()

    def identify(self) -> Identity:
        """By the driver and, where it has a GPU, the library, which takes a moment to load."""
        architecture = cuda.find_gpu().architecture
        library = self._load_library()
        library.check_architecture(architecture)
        return Identity(library.flavour.value, library.version, architecture)

    def open_gpu(self) -> Gpu:
        """By CUDA's driver."""
        return cuda.open_gpu()

    def new_build(self) -> Build:
        """A process of its own; one at a time, for each takes a core and much memory."""
        return BuildProcess(self._turn)

    def load(self, plan: bytes, gpu: Gpu, kernels: Path) -> GraphEngine:
        """In this process."""
        return TensorRtEngine(self._load_library(), gpu, plan, kernels)

    def _load_library(self) -> Library:
        if self._library is None:
            self._library = load_library()
        return self._library
