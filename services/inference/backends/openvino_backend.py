"""OpenVINO Runtime as a backend: encoders, and ONNX graphs of named tensors; on the CPU.

The only module that knows that library, which is an extra: it is quicker than ONNX Runtime by a
tenth, and by two where the processor has bfloat16 and the manifest asks for it. Left to itself it
computes in bfloat16 wherever it can; here a precision is always said, so that an answer does not
change by the machine. It keeps no slots: language models run elsewhere.

Three things that it does not see to are seen to here. Nothing holds its kernels to computing a row
alike in any company (most do; bfloat16 on processors without its products does not), so encoders
are tried when they are opened; tensor models are tried by their own loader. It takes integers of 64
bits as 32 and doubles as floats, so what does not fit is refused. And it trusts the numbers that it
is given, so of strangers' graphs it gets those alone that `openvino_operators` lets pass.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

from mesh.tensor import Array
from services.inference.backends.backend import (
    BackendFailed,
    BackendSettings,
    BackendUnavailable,
    Device,
    Graph,
    GraphRunner,
    InputsRefused,
    Obstacle,
)
from services.inference.backends.openvino_operators import Operator, find_hazard
from services.inference.graph.onnx_ends import GraphEnds, read_ends
from services.inference.graph.session import graph_bytes
from services.inference.llm.decoder import Decoder
from services.inference.llm.slot_backend import SlotBackend

NAME = "openvino"
_TELEMETRY = "openvino_telemetry"

_PRECISIONS: Final = {"auto": "f32", "fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES: Final = {"bf16": "BF16", "f16": "FP16"}
"""What a processor must have for a precision; OpenVINO would make up for it, slowly."""
_NARROWED: Final = frozenset({"f64", "u32", "u64"})
_NOT_CARRIED: Final = frozenset({"BYTES", "FP64", "UINT32", "UINT64"})
_INT32: Final = np.iinfo(np.int32)

_TRIALS: Final = ((8, (2, 3, 5, 8, 16, 32)), (128, (2, 3, 16)))
"""Tokens of a row, and rows in its company."""
_TRIAL_IDS = 1000


class OpenVinoBackend:
    """Graphs in OpenVINO, each compiled when it is opened, within a second; nothing is kept."""

    name = NAME

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings

    def check(self) -> Device:
        """On the CPU, if the package is installed; it is imported for a model's sake alone."""
        if importlib.util.find_spec("openvino") is None:
            raise BackendUnavailable(NAME, Obstacle.MISSING_LIBRARY, "openvino is not installed")
        return Device.CPU

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:  # noqa: ARG002
        """Never: it keeps nothing from one run to the next."""
        text = "it runs graphs of tensors, and keeps no slots for language models"
        raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, text)

    def open_graph(self, graph: Graph) -> GraphRunner:
        """Compiles the graph in the precision that is asked for, in float32 if none is."""
        library = load_library()
        core = library.Core()
        precision = _precision(graph.compute, core)
        path = graph.onnx()
        ends = read_ends(path)
        with _unsupported():
            model = core.read_model(path)
            if graph.encoder is None:  # whose graph is ours, and so are its numbers
                _check_ends(ends)
                _check_operators(model)
            compiled = core.compile_model(model, "CPU", _properties(precision, self._settings))
        with ExitStack() as opened:
            runner = OpenVinoGraph(library, compiled, ends, graph_bytes(path))
            opened.callback(runner.close)
            if graph.encoder is not None:
                check_company(runner, graph.encoder.config.max_tokens, precision)
            opened.pop_all()
        return runner


class OpenVinoGraph:
    """A compiled graph and its one request; each thread needs a graph of its own.

    Several requests of one compiled graph would wait for each other: it has one stream.
    """

    is_concurrent = False

    def __init__(self, library: Any, compiled: Any, ends: GraphEnds, memory_bytes: int) -> None:
        self.inputs = ends.inputs
        self.outputs = ends.outputs
        self.memory_bytes = memory_bytes
        self._library = library
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._datatypes = {tensor.name: tensor.datatype for tensor in (*ends.inputs, *ends.outputs)}

    def __repr__(self) -> str:
        return f"<OpenVinoGraph {', '.join(tensor.name for tensor in self.outputs)}>"

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The named outputs for these inputs."""
        tensors = {name: self._tensor(name, array) for name, array in inputs.items()}
        with _failures(InputsRefused):
            for name, tensor in tensors.items():
                self._request.set_tensor(name, tensor)
        with _failures(BackendFailed):
            self._request.infer()
            return [self._array(name) for name in outputs]

    def close(self) -> None:
        """Frees the engine's memory; the graph answers no more."""
        del self._request, self._compiled

    def _tensor(self, name: str, array: Array) -> Any:
        """Over the array's own memory, unless that is out of order or a request's."""
        datatype, array = self._datatypes[name], np.require(array, requirements=("C", "W"))
        if datatype == "BF16":
            return self._library.Tensor(array, list(array.shape), self._library.Type.bf16)
        if datatype == "INT64":
            check_range(name, array)
        return self._library.Tensor(array, shared_memory=True)

    def _array(self, name: str) -> Array:
        """A copy: the next run writes over it."""
        found: Array = self._request.get_tensor(name).data.copy()
        return found.view(np.uint16) if self._datatypes[name] == "BF16" else found


def load_library() -> Any:
    """The package without its telemetry, which counts as not installed.

    Importing the one would have the other tell its makers so, and write two files in the home
    folder, unasked.
    """
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None: not to be found
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(NAME, Obstacle.MISSING_LIBRARY, str(error)) from error


def _precision(compute: str, core: Any) -> str:
    precision = _PRECISIONS[compute]
    needed = _CAPABILITIES.get(precision)
    if needed and needed not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        text = f"this processor has no {compute}"
        raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_PRECISION, text)
    return precision


def _properties(precision: str, settings: BackendSettings) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": settings.thread_count,
        "NUM_STREAMS": 1,
        # Models and nodes share the machine: two that were pinned would share the same cores.
        "ENABLE_CPU_PINNING": False,
        # Of activations; its scales would be the company's.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def _check_ends(ends: GraphEnds) -> None:
    for tensor in (*ends.inputs, *ends.outputs):
        if tensor.datatype in _NOT_CARRIED or (
            tensor.datatype == "INT64" and tensor in ends.outputs
        ):
            text = f"{tensor.name!r} is {tensor.datatype}, which it would cut to 32 bits"
            if tensor.datatype == "BYTES":
                text = f"{tensor.name!r} is of texts"
            raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, text)


def _check_operators(model: Any) -> None:
    nodes = model.get_ordered_ops()
    hazard = find_hazard(map(_operator, nodes))
    if hazard is not None:
        raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, hazard)
    for node in nodes:
        for output in node.outputs():
            if (kind := output.get_element_type().get_type_name()) in _NARROWED:
                text = f"{node.get_friendly_name()} gives {kind}, which it would cut to 32 bits"
                raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, text)


def _operator(node: Any) -> Operator:
    sources = (value.get_node().get_friendly_name() for value in node.input_values())
    return Operator(node.get_friendly_name(), node.get_type_name(), tuple(sources))


def check_range(name: str, array: Array) -> None:
    """Raises if integers of 64 bits are more than that."""
    if array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise InputsRefused(f"{NAME}: {name!r} has a value beyond the 32 bits that it computes in")


def check_company(runner: GraphRunner, max_tokens: int, precision: str) -> None:
    """Runs rows alone and together; raises if that is not the same to the last bit."""
    for width, counts in _TRIALS:
        ids, lengths = _trial_rows(max(counts), min(width, max_tokens))
        alone = np.concatenate(
            [_encode(runner, ids[at : at + 1], lengths[at : at + 1]) for at in range(len(ids))]
        )
        for count in counts:
            together = _encode(runner, ids[:count], lengths[:count])
            if together.tobytes() != alone[:count].tobytes():
                text = f"in {precision} on this processor, rows of others would change an answer"
                raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_PRECISION, text)


def _trial_rows(count: int, width: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(width)
    ids = rng.integers(0, _TRIAL_IDS, (count, width))
    return ids, rng.integers(max(1, width - 7), width + 1, count)


def _encode(runner: GraphRunner, ids: Array, lengths: Array) -> Array:
    (found,) = runner.run([runner.outputs[0].name], {"input_ids": ids, "lengths": lengths})
    return found


@contextmanager
def _unsupported() -> Iterator[None]:
    """What it says of a graph that it cannot compile; whether others can, they are asked next."""
    try:
        yield
    except RuntimeError as error:
        raise BackendUnavailable(NAME, Obstacle.UNSUPPORTED_MODEL, said(str(error))) from error


@contextmanager
def _failures(kind: type[BackendFailed]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # all that the library raises
        raise kind(f"{NAME}: {said(str(error))}") from error


def said(text: str) -> str:
    """An error of the library without the places in its source."""
    lines = (line.strip() for line in text.splitlines())
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(told) or text
