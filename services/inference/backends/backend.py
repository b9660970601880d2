"""An execution engine inside a node: what all of them offer, and how they fail.

A backend is asked first whether it can run here at all (`check`), then opens models: decoders with
KV slots for the scheduler of language models, and graphs of named tensors for everything else.
Loading is opening, unloading is closing; in between a model runs or steps, tells its signature and
the memory it takes, and is warmed up by being asked once. Opening may take minutes and blocks; it
is never called on the event loop. What a backend cannot do it refuses with `BackendUnavailable`,
and the model is opened on the next one of `choice.choose`.

A further backend is one file with a class like these, and its line in `available.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mesh.errors import FailedPrecondition, Internal
from mesh.tensor import Array
from services.inference.encoders.bert_source import BertSource
from services.inference.llm.decoder import Decoder
from services.inference.llm.slot_backend import SlotBackend


class Obstacle(Enum):
    """Why a backend cannot run a model here; the names are stable."""

    MISSING_LIBRARY = "missing_library"
    """Its library is not installed, or not whole."""
    NO_GPU = "no_gpu"
    """It needs a GPU, and there is none that it can use."""
    UNSUPPORTED_GPU = "unsupported_gpu"
    """There is a GPU, of an architecture that the library does not run on."""
    PLAN_FOR_ANOTHER_GPU = "plan_for_another_gpu"
    """The compiled engine was built for another architecture or another version."""
    UNSUPPORTED_MODEL = "unsupported_model"
    """It does not run models of this kind."""
    UNSUPPORTED_PRECISION = "unsupported_precision"
    """It does not compute in what the manifest asks for; where it runs the model all the same, the
    model's remark says in what."""
    NOT_BUILT_YET = "not_built_yet"
    """It is still to compile this model, and does so while the model serves elsewhere."""
    BUILD_FAILED = "build_failed"
    """It could not compile this model."""
    OUT_OF_MEMORY = "out_of_memory"
    """Its device has not enough memory left."""


class BackendUnavailable(FailedPrecondition):
    """A backend cannot run a model here; another one may."""

    reason = "BACKEND_UNAVAILABLE"

    def __init__(self, backend: str, obstacle: Obstacle, detail: str) -> None:
        super().__init__(
            f"{backend}: {obstacle.value}: {detail}",
            metadata={"backend": backend, "obstacle": obstacle.value},
        )
        self.backend = backend
        self.obstacle = obstacle
        self.detail = detail


class BackendFailed(Internal):
    """A run on the execution engine failed; whatever it was to write holds nothing of use."""

    reason = "BACKEND_FAILED"


class InputsRefused(BackendFailed):
    """It failed because of what its inputs hold or of their shapes, says the engine."""


def check_token_ids(ids: NDArray[Any] | Sequence[int], vocabulary: int) -> None:
    """Raises `InputsRefused` for a token that the model has no vector for.

    A GPU does not: it reads whatever lies there, or ends every model of the process.
    """
    found = np.asarray(ids)
    if found.size and not (found.min() >= 0 and found.max() < vocabulary):
        wrong = next(int(each) for each in found.flat if not 0 <= each < vocabulary)
        raise InputsRefused(f"token {wrong} is outside the model's vocabulary of {vocabulary}")


class BackendLost(BackendFailed):
    """The engine cannot go on from here, whatever it is asked: its device is gone, or its state."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How the node lets a backend use the machine.

    `threads` None means all cores; nodes that share a machine do better with their share of them.
    `spin` gains 15-25 % on a machine of one's own and loses as much on a shared one.
    """

    threads: int | None = None
    spin: bool = False

    @property
    def thread_count(self) -> int:
        """The threads of one model."""
        return self.threads or os.cpu_count() or 1


class Device(Enum):
    """Where a backend computes."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a graph: the protocol's datatype (`FP32`), -1 for any length.

    `axes` are the names that the graph gives to its axes, empty where it gives none: axes of one
    name have one length.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()


class GraphRunner(Protocol):
    """A loaded graph."""

    @property
    def is_concurrent(self) -> bool:
        """Whether several threads may run it at once; else each instance needs its own."""

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[GraphTensor, ...]:
        """What it gives."""

    @property
    def memory_bytes(self) -> int:
        """Weights, and what it has reserved beside them."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The named outputs for these inputs; raises `BackendFailed`.

        BF16 travels as its bits in `uint16`, BYTES as texts in arrays of objects.
        """

    def close(self) -> None:
        """Frees everything."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A model of named tensors as any backend can take it.

    `onnx` gives the path of its ONNX form, made at the first call if it was not one to begin with.
    `encoder` is there where the model is known by its architecture, for backends that take weights.
    `compute` is the manifest's `precision`: what a backend with a choice computes in. Where it
    `has_rows`, every first axis counts rows that are computed each for itself, so that a backend
    may pad them to other numbers or cut them apart.
    """

    model: str
    digest: str
    onnx: Callable[[], Path]
    cache_dir: Path
    encoder: BertSource | None = None
    compute: str = "auto"
    has_rows: bool = False


class Backend(Protocol):
    """An execution engine."""

    @property
    def name(self) -> str:
        """What manifests call it: `onnxruntime`."""

    def check(self) -> Device:
        """Where it would compute; raises `BackendUnavailable` where it cannot run at all."""

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """Loads a decoder with its slots.

        Raises:
            BackendUnavailable: not on this backend, or not on this machine.
            FailedPrecondition: the model's files are wrong for any backend.
        """

    def open_graph(self, graph: Graph) -> GraphRunner:
        """Loads a graph; raises like `open_slots`."""
