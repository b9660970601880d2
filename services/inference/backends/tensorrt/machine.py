"""What the backend asks of the machine that it runs on: identify, build, load.

One seam between deciding (which engine, for which shapes, in which cache) and doing, so that
everything above it runs without a GPU, against an engine of another make.
"""

from __future__ import annotations

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


class Machine(Protocol):
    """A place where engines are built and run."""

    def identify(self) -> Identity:
        """What is here; raises `BackendUnavailable` with what is missing."""

    def open_gpu(self) -> Gpu:
        """The GPU, with a stream of its own."""

    def build(self, job: BuildJob) -> None:
        """Builds a plan; blocking."""

    def load(self, plan: bytes, gpu: Gpu, kernels: Path) -> GraphEngine:
        """Loads a plan onto the GPU."""

    def close(self) -> None:
        """Ends the build that is under way."""


class ThisMachine:
    """The real one."""

    def __init__(self) -> None:
        self._library: Library | None = None
        self._process = BuildProcess()

    def identify(self) -> Identity:
        """By the library and the driver."""
        library = self._load_library()
        architecture = cuda.find_gpu().architecture
        library.check_architecture(architecture)
        return Identity(library.flavour.value, library.version, architecture)

    def open_gpu(self) -> Gpu:
        """By CUDA's driver."""
        return cuda.open_gpu()

    def build(self, job: BuildJob) -> None:
        """In a process of its own."""
        self._process.run(job)

    def load(self, plan: bytes, gpu: Gpu, kernels: Path) -> GraphEngine:
        """In this process."""
        return TensorRtEngine(self._load_library(), gpu, plan, kernels)

    def close(self) -> None:
        """Ends the process that builds."""
        self._process.close()

    def _load_library(self) -> Library:
        if self._library is None:
            self._library = load_library()
        return self._library
